"""The exception tree: what went wrong, as the client sees it. Nothing here knows HTTP beyond a number.

    MareyError
    ├── RequestError              the client's to mend
    │   ├── Malformed             the body is not the multipart form that was asked for
    │   ├── EmptyFile             the file has no bytes
    │   ├── MissingKey            no API key, and one is asked for
    │   │   └── InvalidKey        … or one that is not known
    │   ├── NotAllowed            the key may not do this
    │   ├── UnknownModel          no such bundle is loaded, or not for this task
    │   ├── UnknownJob            no such job, or no longer
    │   ├── NoJobs                this service keeps none
    │   ├── TooSlow               the body comes too slowly, or not at all
    │   ├── JobConflict           the job is not in a state that allows this
    │   ├── TooLarge              more bytes than allowed
    │   │   ├── TooManyPixels     … more pixels, by the header, before anything is decoded
    │   │   └── TooLong           … more seconds or frames of video
    │   ├── UnsupportedMedia      the content is no image or video that we take
    │   │   └── UnsupportedCodec  … or is one that this build cannot decode
    │   ├── InvalidParameter      a parameter is out of its range
    │   │   ├── MissingFile       … or the form lacks the file
    │   │   ├── UrlRefused        … or names a URL that must not be fetched
    │   │   └── UrlFailed         … or one that gives no file
    │   ├── DecodeFailed          the media broke while it was decoded
    │   │   └── DecodeLimit       … or took more time or memory than one upload may
    │   ├── HeadersTooLarge       more headers than allowed, before there is a request
    │   └── ClientGone            the client hung up: nobody reads this
    ├── ServiceError              the service's state; the same request may succeed later
    │   ├── Overloaded            the queue is full, or waiting would take too long
    │   ├── RateLimited           this key, or address, asks too often
    │   ├── SpoolFull             uploads that are being worked on fill their folder
    │   ├── NotReady              models are still loading, or the engine has died
    │   ├── Draining              the service is stopping
    │   └── DeadlineExceeded      the answer was not ready in time
    ├── BundleError               a bundle on disk is not what its manifest says
    ├── KeysError                 the file of API keys cannot be used
    └── EngineError               a network could not be loaded or run
        ├── EngineUnavailable     … for want of a package, a driver or a device on this machine
        ├── DeviceFull            … for want of memory on the device
        ├── BuildCancelled        … because the service is stopping
        └── DeviceLost            … nor anything else on that device, until the process starts anew

Each carries its status and code; the message names the value, the limit and the remedy. `service/api/problems.py` is the
only place that turns one into a response.
"""

from __future__ import annotations

from typing import ClassVar


class MareyError(Exception):
    """Base of everything that Marey raises on purpose. `str(error)` is one clear sentence for a person."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s


class RequestError(MareyError):
    status, code, title = 400, "bad_request", "Bad request"


class Malformed(RequestError):
    code, title = "malformed", "Malformed request"


class EmptyFile(RequestError):
    code, title = "empty_file", "Empty file"


class MissingKey(RequestError):
    status, code, title = 401, "missing_key", "Missing API key"


class InvalidKey(MissingKey):
    code, title = "invalid_key", "Invalid API key"


class NotAllowed(RequestError):
    status, code, title = 403, "not_allowed", "Not allowed"


class UnknownModel(RequestError):
    status, code, title = 404, "unknown_model", "Unknown model"


class UnknownJob(RequestError):
    status, code, title = 404, "unknown_job", "Unknown job"


class NoJobs(RequestError):
    status, code, title = 404, "no_jobs", "No jobs here"


class TooSlow(RequestError):
    status, code, title = 408, "too_slow", "Too slow"


class JobConflict(RequestError):
    status, code, title = 409, "job_conflict", "Job in another state"


class TooLarge(RequestError):
    status, code, title = 413, "file_too_large", "File too large"


class TooManyPixels(TooLarge):
    code, title = "too_many_pixels", "Too many pixels"


class TooLong(TooLarge):
    code, title = "video_too_long", "Video too long"


class UnsupportedMedia(RequestError):
    status, code, title = 415, "unsupported_media", "Unsupported media"


class UnsupportedCodec(UnsupportedMedia):
    code, title = "unsupported_codec", "Unsupported codec"


class InvalidParameter(RequestError):
    status, code, title = 422, "invalid_parameter", "Invalid parameter"


class MissingFile(InvalidParameter):
    code, title = "missing_file", "Missing file"


class UrlRefused(InvalidParameter):
    code, title = "url_refused", "URL refused"


class UrlFailed(InvalidParameter):
    code, title = "url_failed", "URL gave no file"


class DecodeFailed(RequestError):
    status, code, title = 422, "decode_failed", "Decoding failed"


class DecodeLimit(DecodeFailed):
    code, title = "decode_limit", "Decoding limit reached"


class HeadersTooLarge(RequestError):
    status, code, title = 431, "headers_too_large", "Headers too large"


class ClientGone(RequestError):
    """Never sent: it ends the work and names it in the log. The number is nginx's."""

    status, code, title = 499, "client_gone", "Client gone"


class ServiceError(MareyError):
    status, code, title = 503, "unavailable", "Service unavailable"


class Overloaded(ServiceError):
    status, code, title = 429, "overloaded", "Overloaded"


class RateLimited(ServiceError):
    status, code, title = 429, "rate_limited", "Rate limited"


class SpoolFull(ServiceError):
    status, code, title = 507, "spool_full", "Spool full"


class NotReady(ServiceError):
    code, title = "not_ready", "Not ready"


class Draining(ServiceError):
    code, title = "draining", "Draining"


class DeadlineExceeded(ServiceError):
    status, code, title = 504, "deadline_exceeded", "Deadline exceeded"


class BundleError(MareyError):
    code, title = "bundle", "Bundle refused"


class KeysError(MareyError):
    code, title = "keys", "API keys refused"


class EngineError(MareyError):
    code, title = "engine", "Engine failed"


class EngineUnavailable(EngineError):
    """Before any network was looked at; the message ends with the remedy."""


class DeviceFull(EngineError):
    """Building the engine anew would not help."""


class BuildCancelled(EngineError):
    """Nothing else is tried in its place."""


class DeviceLost(EngineError):
    """After a fault that CUDA cannot recover from; the device thread ends, and with it the service."""

    status, code, title = 503, "device_lost", "Device lost"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, retry_after_s=30)
