"""What is tested in the environment of the extra [serve] is left out where that is not installed; CI has both."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("ray") else ["test_api.py", "test_deployment.py", "test_batch_on_ray.py"]
