"""Every setting of the service, read once at the top from the environment (prefix MAREY_) and passed down as values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.engine.base import Choice

# As in the header Origin: of web pages, and of extensions, whose schemes have a hyphen.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")

EngineName = Literal["auto", "tensorrt", "openvino", "onnxruntime"]


class Settings(BaseSettings):
    """Frozen: what a command line says is laid over the environment by `Settings(**flags)`, once."""

    model_config = SettingsConfigDict(env_prefix="MAREY_", env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Bundles, or folders of them, separated as in PATH."
    )
    engine: EngineName = Field(default="auto", description="auto takes the first engine that works.")
    precision: Choice = Field(default="auto", description="auto: int8 where it proves itself on the golden clips.")
    devices: Annotated[tuple[Annotated[int, Field(ge=0)], ...], NoDecode] = Field(
        default=(),
        description="GPUs by CUDA's numbers, such as 0,1: one engine each, and none on the CPU. Default: the first.",
    )
    engine_cache: Path | None = Field(
        default=None, description="Folder of built TensorRT engines; who may write there decides what runs."
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, description="Engine threads (CPU)."
    )
    decode_workers: int = Field(
        default_factory=lambda: min(8, max(2, len(os.sched_getaffinity(0)))),
        ge=1,
        le=64,
        description="Decoder processes.",
    )
    decode_timeout_s: float = Field(
        default=60, gt=0, le=3600, description="Wall time of one decode, then 422 decode_limit."
    )
    max_upload_bytes: int = Field(default=64 * 2**20, ge=1, description="Largest file, else 413.")
    max_pixels: int = Field(
        default=50_000_000, ge=1, description="Largest image or video frame, by its header, else 413."
    )
    max_duration_s: float = Field(default=600, gt=0, le=86_400, description="Longest video, else 413.")
    max_requests: int = Field(default=64, ge=1, description="Requests in progress at once, else 429.")
    max_queued_rows: int = Field(default=4096, ge=64, description="Frames and clips waiting for the device, else 429.")
    max_queued_bytes: int = Field(
        default=2**30, ge=2**20, description="Uploads and frames held in memory at once, else 429."
    )
    queue_ms: int = Field(
        default=100,
        ge=1,
        le=600_000,
        description="An interactive request that would wait longer for its turn is refused with 429; bulk waits up to its deadline.",
    )
    timeout_ms: int = Field(default=30_000, ge=1, le=600_000, description="Default deadline of a request, then 504.")
    drain_s: float = Field(default=30, gt=0, le=3600, description="Time that accepted requests get after SIGTERM.")
    spool: Path | None = Field(default=None, description="Folder for uploads too large for memory, as they arrive.")
    max_spool_bytes: int = Field(
        default=4 * 2**30, ge=2**20, description="All uploads in the spool together, else 507."
    )
    jobs: Path | None = Field(default=None, description="Folder of jobs and their results; one service at a time.")
    max_jobs: int = Field(default=1000, ge=0, description="Jobs that wait or run, else 429; 0: no jobs.")
    max_job_bytes: int = Field(default=2 * 2**30, ge=1, description="Largest file of a job, else 413.")
    max_job_duration_s: float = Field(default=14_400, gt=0, le=604_800, description="Longest video of a job, else 413.")
    keep_jobs_s: float = Field(default=604_800, gt=0, le=31_536_000, description="Time that a finished job is kept.")
    max_streams: int = Field(default=16, ge=0, description="Live streams at once, else 429; 0: no streams.")
    keys: Path | None = Field(
        default=None, description="File of API keys, hashed, as marey key writes it; without it everybody may ask."
    )
    rate_limit: float | None = Field(
        default=None, gt=0, le=1e6, description="Requests a second for each key (or address, without keys), else 429."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Web origins whose pages may ask, separated by commas; * for all."
    )
    allow_urls: bool = Field(
        default=False, description='Whether {"url": …} is fetched: http(s) and public addresses only.'
    )
    watch_s: float | None = Field(
        default=None, gt=0, le=3600, description="Look for new, changed and gone bundles every so many seconds."
    )
    weights: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Share of requests for each version, such as fight:1=9,fight:2=1; else the newest has all.",
    )
    max_model_bytes: int | None = Field(
        default=None,
        ge=2**20,
        description="Models held at once; the least used gives way, and comes back when asked for.",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="text for people, json for machines.")
    traces: bool = Field(
        default=False, description="Send OpenTelemetry traces (extra otel); OTEL_EXPORTER_OTLP_ENDPOINT says where."
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("bundles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value

    @field_validator("devices", "cors_origins", "weights", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("devices")
    @classmethod
    def _each_once_and_used(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("name each GPU once, such as 0,1")
        engine = info.data.get("engine")
        if value and engine not in ("auto", "tensorrt"):
            raise ValueError(f"these are GPUs, which the engine {engine} does not use; leave one of the two out")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins_as_browsers_say_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(
                origin
            ):  # it would be compared as text, and never match
                raise ValueError(
                    f"{origin!r} is no origin that a site has; write scheme and host in small letters, without a path, "
                    "such as https://app.example or http://localhost:3000"
                )
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
