"""A conversation of datsync with itself, captured on the way and decoded."""

import io
import json
import shutil
import signal
import subprocess
import time

import pytest

import tools
from dat import decode


def test_a_live_capture(tmp_path):
    """tcpdump on loopback, while one process clones a feed from another."""
    if not shutil.which("tcpdump"):
        pytest.skip("needs tcpdump: Debian's package tcpdump")
    made = tools.make_folder(tmp_path / "a", 20, 3000)
    with tools.share(tmp_path / "a") as server:
        file = tmp_path / "live.pcap"
        dump = subprocess.Popen(["tcpdump", "-i", "lo", "-U", "-s", "0", "-B", "4096", "-w", str(file), "-Z", "root",
                                 "tcp port %d" % server.port], stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 10
            while not (file.exists() and file.stat().st_size >= 24):
                if dump.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("tcpdump may not capture here: %s" % dump.stderr.read().decode(errors="replace").strip()[-200:])
                time.sleep(0.05)
            time.sleep(0.2)
            tools.clone_now(made.key, tmp_path / "b", port=server.port)
            time.sleep(1)
        finally:
            dump.send_signal(signal.SIGINT)
            try:
                dump.wait(10)
            except subprocess.TimeoutExpired:
                dump.kill()
                dump.wait()
        server.stop()
    out, err = io.StringIO(), io.StringIO()
    code = decode.main([str(file), "--key", made.key.hex(), "--json", "--full"], out, err)
    assert (code, err.getvalue()) == (0, ""), (err.getvalue(), out.getvalue()[-1000:])
    found = [e for e in map(json.loads, out.getvalue().splitlines()) if e["message"] != "note"]
    assert [e["message"] for e in found if e["dir"] == "sent"][:3] == ["Feed", "Handshake", "Want"]
    data = {e["fields"]["index"]: e["fields"]["value"] for e in found
            if e["dir"] == "received" and e["message"] == "Data"}
    assert data == {i: made.blocks[i].hex() for i in range(20)}
