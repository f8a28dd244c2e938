"""Other runtimes and compilers that lepton is measured beside: one file and one row of this table each.

They are optional, and nothing but measuring uses them.
"""

from __future__ import annotations

from lepton_compiler.peers.peer import Loaded, Peer, PeerError
from lepton_compiler.registry import Registry

TABLE = {
    "onnxruntime": "lepton_compiler.peers.onnxruntime:OnnxRuntime",
    "openvino": "lepton_compiler.peers.openvino:OpenVino",
    "tvm": "lepton_compiler.peers.tvm:Tvm",
    "iree": "lepton_compiler.peers.iree:Iree",
}

registry = Registry("peer", TABLE, "lepton.peers")


def find(name: str) -> Peer:
    """The peer of that name.

    Raises:
        UsageError: there is none.
        MissingDependency: it is not installed; the hint is the command that installs it.
    """
    peer: Peer = registry.get(name)()
    peer.require()
    return peer


__all__ = ["TABLE", "Loaded", "Peer", "PeerError", "find", "registry"]
