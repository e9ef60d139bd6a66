"""The command line: ``robe prepare | data | train | recipe | evaluate | predict | compare | doctor``.

Commands import what they need when they run, so that ``robe --help`` is quick.
"""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import robe.cli.criteo
import robe.cli.public  # noqa: F401
from robe.cli.compare import compare
from robe.cli.data import app as data
from robe.cli.doctor import doctor
from robe.cli.evaluate import evaluate
from robe.cli.predict import predict
from robe.cli.prepare import app as prepare
from robe.cli.recipe import app as recipe
from robe.cli.train import train

app = typer.Typer(
    name="robe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(prepare, name="prepare")
app.add_typer(data, name="data")
app.add_typer(recipe, name="recipe")
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(compare)
app.command()(doctor)

# What the library raises when arguments, files or data are wrong; anything else is a bug and shows its traceback.
EXPECTED = (ValueError, TypeError, IndexError, OSError, FloatingPointError, ModuleNotFoundError)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"robe {version('robe')}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[  # read by main, which is there to catch the error
        bool, typer.Option("--debug", help="Show the traceback of an error.  (or ROBE_DEBUG=1)")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Compressed embeddings for recommendation models, from raw data to a trained model.

    A first tour, on generated data:

        robe prepare synthetic demo/data --rows 200000 --scale 0.01

        robe train demo/data --out demo/run --epochs 2

        robe evaluate demo/run

        robe compare demo/data --out demo/compare --compression 100,1000
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; exits with 0 done, 1 one line of error, 2 an unreadable command line, 130 interrupted."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("robe: %(message)s"))
    logger = logging.getLogger("robe")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments or os.environ.get("ROBE_DEBUG", "0") not in ("", "0")
    try:
        app(args=arguments)
    except EXPECTED as error:
        if debug:
            raise
        typer.echo(f"robe: error: {_one_line(error)}", err=True)
        sys.exit(1)
    except (RuntimeError, MemoryError) as error:
        if debug or not _out_of_memory(error):
            raise
        reason = re.sub(r"^\[enforce fail.*?(?=DefaultCPUAllocator)", "", _one_line(error))
        typer.echo(f"robe: error: out of memory: {reason}; a smaller embedding or batch size needs less", err=True)
        sys.exit(1)
    finally:
        logger.removeHandler(handler)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
