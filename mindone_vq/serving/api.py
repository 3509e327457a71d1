"""OpenAI's images API (https://platform.openai.com/docs/api-reference/images) over a backend that draws."""

import asyncio
import base64
import hmac
import io
import secrets
import time
import warnings
from typing import Annotated, Any, Literal, Optional, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from mindone_vq.diffusion.spacing import SPACINGS
from mindone_vq.serving.errors import APIError
from mindone_vq.serving.request import ImageRequest
from mindone_vq.serving.settings import ServingSettings

MOST_CHARACTERS = 2000
# fields of a request that are fields of SamplingOptions, by their name there
OPTIONS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "truncation_rate": "truncation_rate",
    "sampler": "sampler",
    "spacing": "spacing",
}


class Backend(Protocol):
    """What draws."""

    async def generate(self, request: ImageRequest) -> list[bytes]:
        """A PNG for each seed. Raises ``APIError``; is cancelled where nobody waits any more."""

    async def describe(self) -> dict[str, Any]:
        """``width`` and ``height`` of the pictures. Raises ``APIError`` where nothing can be drawn."""


class GenerationBody(BaseModel):
    """OpenAI's fields, those of them that have one possible value, and ours."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]
    model: Optional[str] = None
    n: Annotated[int, Field(ge=1)] = 1
    size: str = "auto"
    response_format: Literal["b64_json"] = "b64_json"
    output_format: Literal["png"] = "png"
    quality: Literal["auto", "standard"] = "auto"
    background: Literal["auto", "opaque"] = "auto"
    stream: Literal[False] = False
    user: Optional[str] = None  # accepted, and not used
    seed: Optional[Annotated[int, Field(ge=0, lt=2**63)]] = None
    steps: Optional[Annotated[int, Field(ge=1)]] = None
    guidance: Optional[Annotated[float, Field(ge=0, le=100, strict=False)]] = None
    truncation_rate: Optional[Annotated[float, Field(gt=0, le=1, strict=False)]] = None
    sampler: Optional[str] = None
    spacing: Optional[Literal[tuple(SPACINGS)]] = None


class EditBody(GenerationBody):
    """The fields of a form are texts, which are read as numbers where these are wanted."""

    model_config = ConfigDict(extra="forbid", strict=False)

    strength: Annotated[float, Field(ge=0, le=1)] = ImageRequest.strength


def make_app(backend: Backend, settings: ServingSettings) -> FastAPI:
    """The endpoint.

    Args:
        backend: draws.
        settings: limits, and the key.
    """
    app = FastAPI(title="mindone_vq", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(LimitedBody, most_bytes=settings.most_bytes)

    @app.exception_handler(APIError)
    async def refuse(request: Request, error: APIError) -> JSONResponse:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        return await refuse(
            request, APIError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.")
        )

    @app.exception_handler(RequestValidationError)
    async def refuse_fields(request: Request, error: RequestValidationError) -> JSONResponse:
        return await refuse(request, _explained(error.errors()))

    @app.get("/healthz")
    async def health() -> dict[str, Any]:
        return {"status": "ok", **await backend.describe()}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        check_key(request, settings)
        return {"object": "list", "data": [_model(settings)]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        check_key(request, settings)
        _check_model(name, settings)
        return _model(settings)

    @app.post("/v1/images/generations")
    async def generations(request: Request) -> dict[str, Any]:
        check_key(request, settings)
        body = _parsed(GenerationBody, await _json(request))
        return await answer(request, body, None, None)

    @app.post("/v1/images/edits")
    async def edits(request: Request) -> dict[str, Any]:
        check_key(request, settings)
        async with request.form(max_files=2, max_fields=20) as form:
            files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
            fields = {name: value for name, value in form.multi_items() if not isinstance(value, UploadFile)}
            if unknown := [name for name in files if name not in ("image", "mask")]:
                raise APIError(400, f"Unknown file {unknown[0]!r}: send image and mask.", unknown[0])
            if "image" not in files:
                raise APIError(400, "Send the picture to edit as the file 'image'.", "image")
            read = {name: _picture(await each.read(), name, settings) for name, each in files.items()}
        return await answer(request, _parsed(EditBody, fields), *image_and_mask(read["image"], read.get("mask")))

    async def answer(
        request: Request, body: GenerationBody, image: Optional[Image.Image], mask: Optional[Image.Image]
    ) -> dict[str, Any]:
        _check_model(body.model, settings)
        asked = _request(body, image, mask, settings)
        if body.size != "auto":
            _check_size(body.size, await backend.describe())
        try:
            pngs = await asyncio.wait_for(backend.generate(asked), settings.timeout)
        except (TimeoutError, asyncio.TimeoutError) as error:
            raise APIError(504, f"Not drawn within {settings.timeout:g} s: ask for fewer pictures.") from error
        data = [{"b64_json": base64.b64encode(png).decode(), "seed": seed} for png, seed in zip(pngs, asked.seeds)]
        return {"created": int(time.time()), "output_format": "png", "data": data}

    return app


class LimitedBody:
    """Middleware that refuses a body of more than ``most_bytes`` while it comes in."""

    def __init__(self, app: Any, most_bytes: int) -> None:
        self.app, self.most_bytes = app, most_bytes

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken = 0

        async def limited() -> dict:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.most_bytes:
                raise APIError(413, f"The request has more than {self.most_bytes} bytes.", code="too_large")
            return message

        await self.app(scope, limited, send)


def check_key(request: Request, settings: ServingSettings) -> None:
    """Raises ``APIError`` where the request does not bring the key that is asked for."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if settings.api_key and not hmac.compare_digest(given.encode(), settings.api_key.encode()):
        raise APIError(
            401, "The API key is missing or wrong: send 'Authorization: Bearer KEY'.", code="invalid_api_key"
        )


def image_and_mask(image: Image.Image, mask: Optional[Image.Image]) -> tuple[Image.Image, Optional[Image.Image]]:
    """The picture, and its mask with white where to paint.

    In OpenAI's API what is transparent in the mask, or without a mask in the picture, is painted. A mask without
    transparency is white where to paint, as in diffusers.
    """
    if mask is None:
        if image.mode not in ("RGBA", "LA", "PA") or image.convert("RGBA").getextrema()[3][0] == 255:
            return image, None
        mask = image
    if mask.size != image.size:
        raise APIError(
            400, f"The mask is {mask.size[0]} x {mask.size[1]}, the image {image.size[0]} x {image.size[1]}."
        )
    if mask.mode in ("RGBA", "LA", "PA"):
        return image, mask.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha < 128 else 0)
    return image, mask.convert("L")


def _request(
    body: GenerationBody, image: Optional[Image.Image], mask: Optional[Image.Image], settings: ServingSettings
) -> ImageRequest:
    _check_limit("n", body.n, settings.most_pictures)
    if body.steps:
        _check_limit("steps", body.steps, settings.most_steps)
    if body.sampler and body.sampler not in settings.samplers:
        known = ", ".join(settings.samplers)
        raise APIError(400, f"sampler is {body.sampler!r}; this endpoint has {known}.", "sampler")
    options = {name: value for field, name in OPTIONS.items() if (value := getattr(body, field)) is not None}
    first = secrets.randbelow(2**32) if body.seed is None else body.seed
    seeds = tuple(first + i for i in range(body.n))
    options = {"num_inference_steps": settings.steps, "sampler": settings.samplers[0], **options}
    return ImageRequest(body.prompt, seeds, options, image, mask, getattr(body, "strength", ImageRequest.strength))


def _check_limit(name: str, value: int, most: int) -> None:
    if value > most:
        raise APIError(400, f"{name} is {value}; this endpoint gives at most {most}.", name)


def _check_size(size: str, description: dict[str, Any]) -> None:
    own = f"{description['width']}x{description['height']}"
    if size != own:
        raise APIError(400, f"size is {size!r}; this model draws {own}. Leave size out, or give that.", "size")


def _check_model(name: Optional[str], settings: ServingSettings) -> None:
    if name not in (None, settings.model):
        message = f"There is no model {name!r} here; this endpoint has {settings.model!r}."
        raise APIError(404, message, "model", "model_not_found")


def _model(settings: ServingSettings) -> dict[str, Any]:
    return {"id": settings.model, "object": "model", "created": 0, "owned_by": "mindone_vq"}


async def _json(request: Request) -> Any:
    try:
        return await request.json()
    except ValueError as error:
        raise APIError(400, f"The body is not JSON: {error}.") from error


def _parsed(kind: type[BaseModel], given: Any) -> Any:
    if not isinstance(given, dict):
        raise APIError(400, f"The body is a {type(given).__name__}; send a JSON object.")
    try:
        return kind(**given)
    except ValidationError as error:
        raise _explained(error.errors()) from error
    except TypeError as error:
        raise APIError(400, f"The fields cannot be read: {error}.") from error


def _explained(errors: list[dict[str, Any]]) -> APIError:
    """The first of pydantic's errors as one sentence."""
    first = errors[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return APIError(400, f"Unknown parameter: {name!r}.", name, "unknown_parameter")
    if first["type"] == "missing":
        return APIError(400, f"Missing required parameter: {name!r}.", name, "missing_required_parameter")
    given = repr(first.get("input"))
    shown = given if len(given) <= 60 else f"{given[:57]}..."
    return APIError(400, f"{name} is {shown}: {first['msg']}.", name, "invalid_value")


def _picture(content: bytes, name: str, settings: ServingSettings) -> Image.Image:
    """A picture that was sent; its size is known before a pixel of it is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked here
            picture = Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP"))
        if picture.width * picture.height > settings.most_pixels:
            raise APIError(
                400, f"{name} has {picture.width} x {picture.height} pixels; at most {settings.most_pixels}.", name
            )
        picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise APIError(400, f"{name} cannot be read as a PNG, JPEG or WebP: {error}.", name) from error
    return picture
