"""Errors of the endpoint, in the form of OpenAI's API."""

from typing import Any, Optional


class APIError(Exception):
    """An answer that is no picture.

    Args:
        status: of HTTP.
        message: what was given, and what to do.
        parameter: of the request that is wrong.
        code: short, for programs.
        retry_after: seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        parameter: Optional[str] = None,
        code: Optional[str] = None,
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(status, message, parameter, code, retry_after)
        self.status, self.message, self.parameter = status, message, parameter
        self.code, self.retry_after = code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
