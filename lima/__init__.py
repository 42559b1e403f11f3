"""LIMA, "less is more for alignment" (arXiv 2305.11206): a folder a step, in the order that data travels."""

import contextlib
import logging
import os
import sys
import traceback

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at import that an optional CPU kernel is absent
os.environ.setdefault("DS_ACCELERATOR", "cuda" if os.path.exists("/dev/nvidiactl") else "cpu")  # else DeepSpeed warns
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# On CPU, oneDNN keeps compiled code for every shape it has met, and here every length is a shape: 60 MB a step, for ever.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
os.environ.setdefault("LRU_CACHE_CAPACITY", "1")


class UserError(ValueError):
    """What the user can mend. The message is one clear line: where, what was expected, what to do."""


@contextlib.contextmanager
def exit_codes():
    """Ends the program with 2 for a `UserError` (its message, no traceback), 130 for Ctrl-C, 1 for anything else."""
    try:
        yield
    except UserError as error:
        sys.exit(_say(f"error: {error}", 2))
    except KeyboardInterrupt:
        sys.exit(_say("stopped by Ctrl-C; what was complete on disk stands", 130))
    except BrokenPipeError:  # `| head` closed the pipe
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.filename is None or isinstance(error, ConnectionError):
            traceback.print_exc()
            sys.exit(1)
        sys.exit(_say(f"error: {error.filename}: {error.strerror}", 2))
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _say(line, code):
    print(f"\n{line}", file=sys.stderr, flush=True)
    return code
