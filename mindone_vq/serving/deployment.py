"""The endpoint on Ray Serve: replicas that draw, and a gateway that speaks HTTP.

``serve run mindone_vq.serving:app`` deploys it with the settings of the environment. MindSpore is imported in the
replicas alone: in the process of that command, which has imported Ray, it cannot be (``ray_environment``).
"""

import asyncio
import io
import logging
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from mindone_vq.serving.api import make_app
from mindone_vq.serving.errors import APIError
from mindone_vq.serving.ray_environment import ENVIRONMENT
from mindone_vq.serving.request import Busy, Cancelled, ImageRequest
from mindone_vq.serving.settings import ServingSettings

logger = logging.getLogger("ray.serve")

DRAWN_AT_MOST = 3  # times, where replicas die
SOON = 5.0  # seconds, where nothing is known about how long to wait
LOST = (RayActorError, ReplicaUnavailableError)


class Replica:
    """One copy of the model, on a device of its own or a share of the CPU."""

    def __init__(self, settings: ServingSettings) -> None:
        import mindspore as ms

        from mindone_vq import VQDiffusionPipeline
        from mindone_vq.demo import MODELS
        from mindone_vq.serving.engine import Engine
        from mindone_vq.weights.pretrained import FLOAT_TYPES

        if settings.npus:
            ms.set_device("Ascend")
        source = MODELS.get(settings.model, settings.model)
        pipe = VQDiffusionPipeline.from_pretrained(source, mindspore_dtype=FLOAT_TYPES[settings.dtype])
        self.engine = Engine(pipe, settings.batch_sizes, settings.most_waiting)
        own = pipe.default_settings["guidance_scale"]
        ready = [
            self.engine.warm_up(num_inference_steps=settings.steps, sampler=sampler, guidance_scale=guidance)
            for sampler in settings.samplers
            for guidance in {own, 1.0}
        ]
        for each in ready:
            each.result()

    async def generate(self, request: ImageRequest) -> list[bytes]:
        """A PNG for each seed, with prompt, seed and options inside."""
        try:
            job = self.engine.submit(request)
        except Busy as error:
            raise APIError(429, str(error), code="busy", retry_after=error.retry_after) from None
        except (TypeError, ValueError) as error:
            raise APIError(400, f"{error}") from None
        try:
            pictures = await asyncio.wrap_future(job.pictures)
        except asyncio.CancelledError:
            job.cancel()
            raise
        except Cancelled:
            raise APIError(499, "The request was cancelled.") from None
        return [_png(picture, request, seed) for picture, seed in zip(pictures, request.seeds)]

    def describe(self) -> dict[str, Any]:
        height, width = self.engine.size
        return {"width": width, "height": height}

    def __del__(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()


class Gateway:
    """Takes HTTP requests, and gives them to a replica; to another one where that dies."""

    def __init__(self, replicas: DeploymentHandle, settings: ServingSettings) -> None:
        self.replicas, self.settings = replicas, settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self, self.settings)

    async def generate(self, request: ImageRequest) -> list[bytes]:
        return await self._asked("generate", request)

    async def describe(self) -> dict[str, Any]:
        return await self._asked("describe")

    async def _asked(self, method: str, *arguments: Any) -> Any:
        for again in range(DRAWN_AT_MOST):
            try:
                return await getattr(self.replicas, method).remote(*arguments)
            except LOST as error:
                logger.warning("A replica was lost (%s); attempt %d.", type(error).__name__, again + 1)
                await asyncio.sleep(0.5 * (again + 1))
            except (BackPressureError, DeploymentUnavailableError) as error:
                raise APIError(503, "All replicas are busy: try again later.", code="busy", retry_after=SOON) from error
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, APIError):
                    raise error.cause from None
                raise
        raise APIError(503, "The replicas that drew this were lost: try again.", code="unavailable", retry_after=SOON)


def make_application(settings: ServingSettings) -> serve.Application:
    """The two deployments, as ``serve.run`` takes them."""
    resources = {"NPU": settings.npus} if settings.npus else {}
    replicas = serve.deployment(
        Replica,
        name="Replica",
        ray_actor_options={
            "num_cpus": settings.cpus,
            "resources": resources,
            "runtime_env": {"env_vars": ENVIRONMENT},
        },
        autoscaling_config={
            "min_replicas": settings.replicas,
            "max_replicas": settings.most_replicas,
            "target_ongoing_requests": max(settings.batch_sizes),
        },
        max_ongoing_requests=2 * max(settings.batch_sizes),
        max_queued_requests=settings.most_waiting,
        graceful_shutdown_timeout_s=settings.timeout,
    )
    gateway = serve.deployment(
        serve.ingress()(Gateway),
        name="Gateway",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
    )
    return gateway.bind(replicas.bind(settings), settings)


def _png(picture: Any, request: ImageRequest, seed: int) -> bytes:
    from mindone_vq.batch import described

    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=described({"prompt": request.prompt, "seed": seed, **request.options}))
    return file.getvalue()
