"""The plugin's HTTP side: routes, bounds, and how an error is said.

Spec: libnetwork docs/remote.md "Errors": a request that cannot be decoded is 4xx, an unknown method 404, one
      that was understood and cannot be done 200; each with {"Err": text}. Docker plugin API v1.1 (handshake,
      content type).
Not:  the socket (command.py).
"""

import asyncio
import json

from aiohttp import web

from dpu_runtime.engines.docker import protocol
from dpu_runtime.engines.docker.protocol import MalformedError, RefusedError
from dpu_runtime.engines.docker.records import log

BODY_BYTES_MAX = 1 << 20  # octets; dockerd's requests have some hundred
BODY_TIMEOUT_S = 10.0
CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"


def make_app(networks, endpoints):
    """An aiohttp application that answers dockerd."""
    methods = {
        "Plugin.Activate": (protocol.Nothing, _activate),
        "NetworkDriver.GetCapabilities": (protocol.Nothing, _capabilities),
        "NetworkDriver.AllocateNetwork": (protocol.NetworkRequest, networks.allocate),
        "NetworkDriver.FreeNetwork": (protocol.NetworkRef, networks.free),
        "NetworkDriver.CreateNetwork": (protocol.NetworkRequest, networks.create),
        "NetworkDriver.DeleteNetwork": (protocol.NetworkRef, networks.delete),
        "NetworkDriver.CreateEndpoint": (protocol.CreateEndpoint, endpoints.create),
        "NetworkDriver.EndpointOperInfo": (protocol.EndpointRef, endpoints.info),
        "NetworkDriver.DeleteEndpoint": (protocol.EndpointRef, endpoints.delete),
        "NetworkDriver.Join": (protocol.Join, endpoints.join),
        "NetworkDriver.Leave": (protocol.EndpointRef, endpoints.leave),
        "NetworkDriver.ProgramExternalConnectivity": (protocol.EndpointRef, endpoints.external),
        "NetworkDriver.RevokeExternalConnectivity": (protocol.EndpointRef, endpoints.not_external),
        "NetworkDriver.DiscoverNew": (protocol.Discovery, _discovery),
        "NetworkDriver.DiscoverDelete": (protocol.Discovery, _discovery),
    }

    async def answer(request):
        name = request.match_info["method"]
        if name not in methods:
            return _reply({"Err": f"no method {name!r}; allowed: {', '.join(methods)}"}, 404)
        if request.method != "POST":
            return _reply({"Err": f"{name} by {request.method}; allowed: POST"}, 405)
        model, run = methods[name]
        try:
            return _reply(await run(protocol.parse(model, await _body(request))))
        except MalformedError as error:
            return _reply({"Err": f"{name}: {error}"}, 400)
        except web.HTTPRequestEntityTooLarge:
            return _reply({"Err": f"{name}: body too long; allowed: {BODY_BYTES_MAX} octets"}, 413)
        except RefusedError as error:
            log.warning("%s: %s", name, error)
            return _reply({"Err": str(error)})
        except Exception:
            log.exception("%s failed", name)
            return _reply({"Err": f"{name}: internal error, the log of dpu-docker has it"}, 500)

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_route("*", "/{method:.*}", answer)
    return app


async def _body(request):
    """The request's JSON; none at all stands for an empty object."""
    try:
        octets = await asyncio.wait_for(request.read(), BODY_TIMEOUT_S)
        return json.loads(octets) if octets.strip() else {}
    except TimeoutError:
        raise MalformedError(f"the body did not come within {BODY_TIMEOUT_S:g} s") from None
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not JSON: {error}") from None


def _reply(data, status=200):
    return web.Response(body=json.dumps(data).encode(), status=status, content_type=CONTENT_TYPE)


async def _activate(_request):
    return {"Implements": ["NetworkDriver"]}


async def _capabilities(_request):
    """One host's networks, which reach no other host's."""
    return {"Scope": "local", "ConnectivityScope": "local"}


async def _discovery(_request):
    """Other nodes of a cluster do not concern networks of one host."""
    return {}
