"""What is tested in the environment of the extra [serve] is left out where that is not installed; CI has both."""

from importlib.util import find_spec

collect_ignore = (
    [] if find_spec("ray") else [f"test_{name}.py" for name in ("api", "deployment", "command", "batch_on_ray")]
)
