"""Onboardings that Restate calls in this process, and their wait for a reset."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import hypercorn.asyncio
import hypercorn.config
import restate

from reset_flow.cli.onboarding import open_worker, welcome
from reset_flow.integrations.restate import RestateListener, reset_object

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from reset_flow.cli.onboarding import Commands, Job

__all__ = ["listener", "serve"]


async def serve(job: Job, stack: AsyncExitStack) -> Commands:
    """Serve the handlers. Restate is asked, not this process."""
    resets = reset_object(*await open_worker(job, stack))
    onboarding = restate.Workflow("Onboarding")

    @onboarding.main("run")
    async def run(ctx: restate.WorkflowContext, user_ref: str) -> str:
        await ctx.object_call(resets.start, ctx.key(), user_ref)
        status = await ctx.object_call(resets.ended, ctx.key(), None)
        await ctx.run_typed("welcome", welcome, restate.RunOptions(), user_ref, job["welcomed"])
        return status["state"]

    settings, stop = hypercorn.config.Config(), asyncio.Event()
    listening = socket.create_server(("127.0.0.1", job["port"]))
    settings.bind, settings.loglevel = [f"fd://{listening.detach()}"], "ERROR"
    handlers: Any = restate.app([resets, onboarding])
    serving = asyncio.create_task(hypercorn.asyncio.serve(handlers, settings, shutdown_trigger=stop.wait))
    # It may fail as it ends: Hypercorn 0.18 does so over a connection that was just closing.
    stack.push_async_callback(asyncio.wait, [serving])
    stack.callback(stop.set)
    return {}


def listener(job: Job, _: AsyncExitStack) -> RestateListener:
    """Return the one that tells Restate of ends."""
    return RestateListener(job["address"])
