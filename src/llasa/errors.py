"""The exceptions a caller may meet. Each message says what was being done, what was found, and what to do."""


class LlasaError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(LlasaError, ValueError):
    """A value, name or key the user gave is not valid."""


class InputError(LlasaError, ValueError):
    """Audio or text that cannot be used: empty, silent, too long, damaged.

    `reason` is a word for it where programs need one, such as `silent`.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class BundleError(LlasaError):
    """A model folder is incomplete, damaged or incompatible."""


class EngineError(LlasaError):
    """The language-model backend failed.

    `retryable` tells whether the same call may succeed later.
    """

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class EngineBusy(EngineError):
    """The engine takes no more work now; always retryable."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class ScorerError(LlasaError):
    """A scorer or recogniser gave no verdict: it failed, was late or made no sense. Never a score of 0."""


class TrainingError(LlasaError):
    """Training cannot go on by itself: its numbers are no numbers any more."""


class Interrupted(LlasaError):
    """A signal asked to stop. What was done is saved; the same command goes on from there."""


class MissingExtra(LlasaError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, doing: str, module: str, extra: str) -> None:
        super().__init__(
            f"{doing} needs the Python package '{module}', which is not installed. "
            f"Install it with: pip install 'llasa[{extra}]'"
        )
