"""What a cluster file may hold, as pydantic models.

Imported only when a file is read. A field's description is the rule that an error message states, so it reads
well before "is needed".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _pair(value: object) -> object:
    # TOML has arrays only, and strict mode takes no list for a tuple
    return tuple(value) if isinstance(value, list) else value


MAX_COUNT = 10_000
"""No cluster is larger; a slip of the keyboard should not fill the memory."""

_NUMBER = "a finite number of at least 0"
_POSITIVE = "a finite number above 0"
_COUNT = "a whole number of at least 1"

Number = Annotated[float, Field(ge=0, allow_inf_nan=False, description=_NUMBER)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description=_POSITIVE)]
Count = Annotated[int, Field(ge=1, description=_COUNT)]
Text = Annotated[str, Field(description="a text")]
Switch = Annotated[bool, Field(description="true or false")]
_Pair = Annotated[tuple[Count, Number], BeforeValidator(_pair)]
KnotList = Annotated[
    list[_Pair],
    Field(min_length=1, description="a list of [x, ms] pairs with whole x of at least 1 and finite ms of at least 0"),
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class NetworkTable(_Strict):
    """The table ``[network]``."""

    efficiency: Annotated[
        float, Field(gt=0, le=1, allow_inf_nan=False, description="a share of the wire rate above 0 and at most 1")
    ] = 0.75
    latency_us: Annotated[int, Field(ge=0, description="a whole number of at least 0")] = 2000
    contention: Annotated[Literal["nic", "none"], Field(description='"nic" or "none"')] = "nic"


class _Instance(_Strict):
    name: Annotated[str, Field(min_length=1, description="a text of at least one character")]
    count: Annotated[int, Field(ge=1, le=MAX_COUNT, description=f"a whole number from 1 to {MAX_COUNT}")] | None = None
    profile: Text | None = None
    serving_overhead: Switch | None = None
    kv_tokens: Count | None = None
    kv_bytes_per_token: Count | None = None
    nic_bytes_per_s: Positive | None = None
    gpu: Text | None = None
    extrapolate: Switch | None = None


class PrefillEntry(_Instance):
    """One of ``[[instances]]`` with ``role = "prefill"``."""

    role: Literal["prefill"]
    g_knots: KnotList | None = None
    a1_ms: Number | None = None
    a2_ms: Number | None = None
    c0_ms: Number | None = None
    c1: Positive | None = None
    max_batch_tokens: Count | None = None


class DecodeEntry(_Instance):
    """One of ``[[instances]]`` with ``role = "decode"``."""

    role: Literal["decode"]
    h_knots: KnotList | None = None
    b2_ms: Number | None = None
    o0_ms: Number | None = None
    o1_ms: Number | None = None
    max_batch: Count | None = None


Entry = Annotated[PrefillEntry | DecodeEntry, Field(discriminator="role")]


class ClusterFile(_Strict):
    """A whole cluster file."""

    schema_version: Annotated[int, Field(ge=1, le=1, description="1 (the version that this hexopt reads)")]
    model: Text
    name: Text | None = None
    description: Text = ""
    kv_bytes_per_token: Count | None = None
    block_tokens: Count = 16
    kv_admission: Annotated[Literal["backfill", "strict"], Field(description='"backfill" or "strict"')] = "backfill"
    binding: Annotated[Literal["dispatch", "handoff"], Field(description='"dispatch" or "handoff"')] = "dispatch"
    extrapolate: Switch = False
    network: Annotated[NetworkTable, Field(description="a table")] = NetworkTable()
    instances: Annotated[list[Entry], Field(description="an array of tables [[instances]]")]
