"""`turnwire sim`: simulators as processes of their own.

Guarantee: `ready http://HOST:PORT` is printed once requests are accepted; SIGTERM and SIGINT end the process with exit
code 0.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from turnwire._cli import fail

sim = typer.Typer(no_args_is_help=True, help="Simulators of what Turnwire talks to, for your own tests.")


@sim.callback()
def root() -> None:
    """Simulators of what Turnwire talks to, for your own tests."""


@sim.command()
def models(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 lets the system choose.")
    ] = 8790,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    time_scale: Annotated[float, typer.Option(help="How fast pauses pass: 10 makes 20 seconds last two.")] = 1.0,
    key: Annotated[str | None, typer.Option(help="The only API key that is taken; any by default.")] = None,
    scenario: Annotated[str, typer.Option(help="The scenario of requests that name none.")] = "ok",
    list_: Annotated[bool, typer.Option("--list", help="Print the scenarios and leave.")] = False,
) -> None:
    """Serve a provider of models that speaks as Anthropic, OpenAI and Google do, and misbehaves on demand."""
    from ._serve import scaled_clock, serve
    from .models import SCENARIOS, ModelSim, UnknownScenario

    if list_:
        sys.stdout.writelines(f"{each.name:22} {each.wires:4}  {each.about}\n" for each in SCENARIOS.values())
        return
    try:
        server = ModelSim(host=host, port=port, key=key, default=scenario, clock=scaled_clock(time_scale))
    except UnknownScenario:
        raise fail(ValueError(f"--scenario {scenario!r} is unknown; `turnwire sim models --list` lists them")) from None
    serve(server, host, port, url=lambda: server.url, hint=lambda: _hint(server.url))


@sim.command()
def feishu(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 lets the system choose.")
    ] = 8791,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    time_scale: Annotated[
        float, typer.Option(help="How fast time passes: 10 lets a card stream for one minute instead of ten.")
    ] = 1.0,
    app_id: Annotated[str, typer.Option(help="The id of the app that is there from the start.")] = "cli_sim",
    secret: Annotated[str, typer.Option(help="Its secret; this tenant is not real.")] = "sim-secret",  # noqa: S107
    seed: Annotated[int, typer.Option(help="Decides which calls meet faults that have a probability.")] = 0,
) -> None:
    """Serve a Feishu tenant that keeps state and refuses like the platform, with a page that shows its chats."""
    from ._feishu_serve import serve_feishu

    serve_feishu(host=host, port=port, time_scale=time_scale, app_id=app_id, secret=secret, seed=seed)


@sim.command()
def wecom(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 lets the system choose.")
    ] = 8792,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    time_scale: Annotated[
        float, typer.Option(help="How fast time passes: 10 lets a bubble live for one minute instead of ten.")
    ] = 1.0,
    bot_id: Annotated[str, typer.Option(help="The id of the bot that is there from the start.")] = "bot_sim",
    secret: Annotated[str, typer.Option(help="Its secret; this platform is not real.")] = "sim-secret",  # noqa: S107
    latency: Annotated[float, typer.Option(min=0, help="Seconds that each call takes.")] = 0.25,
    seed: Annotated[int, typer.Option(help="Decides which calls meet faults that have a probability.")] = 0,
) -> None:
    """Serve a WeCom platform with bots that keeps state and refuses like the real one, with a page of its chats."""
    from ._wecom_serve import serve_wecom

    serve_wecom(host=host, port=port, time_scale=time_scale, bot_id=bot_id, secret=secret, latency=latency, seed=seed)


def _hint(url: str) -> str:
    return (
        f"OpenAI's SDK: base_url={url}/v1   Anthropic's and Google's: base_url={url}   any API key\n"
        f"a scenario: {url}/SCENARIO[/v1], the header x-scenario, or the model sim:SCENARIO; --list names them"
    )
