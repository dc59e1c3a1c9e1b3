import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, final

__all__ = ["Error", "Scored", "Scorer", "Worker", "__version__", "run"]

__version__: str

class _ArrowArray(Protocol):
    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]: ...

class _ArrowStream(Protocol):
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...

class Error(Exception): ...

@final
class Scored:
    @property
    def column_names(self) -> list[str]: ...
    @property
    def num_rows(self) -> int: ...
    def __len__(self) -> int: ...
    def __arrow_c_schema__(self) -> Any: ...
    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]: ...
    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any: ...

@final
class Scorer:
    def __new__(
        cls,
        checkpoint: str | os.PathLike[str],
        *,
        column: str | None = None,
        emit: Sequence[Literal["log_probs", "entropies", "patch_lengths"]] | None = None,
        on_error: Literal["fail", "null"] | None = None,
        span_bytes: int | None = None,
        context_bytes: int | None = None,
        threads: int | None = None,
    ) -> Scorer: ...
    def score(self, data: _ArrowArray | _ArrowStream) -> Scored: ...
    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]: ...

@final
class Worker:
    def __new__(cls, step: str, threads: int) -> Worker: ...
    def score(self, unit: str) -> str: ...

def run(
    pipeline: str | os.PathLike[str],
    set: Sequence[str],
    output: str | None,
    runs: str | os.PathLike[str],
    store: str | os.PathLike[str] | None,
    threads: int | None,
    schedule: Callable[[str, list[str]], Iterable[tuple[int, str] | None]],
    quiet: bool,
    library: str | os.PathLike[str],
) -> tuple[str, str]: ...
