"""What is run on another host besides the runtime itself: a few lines of sh and Python, given on the command
line. They look for Python, and receive what is sent: checked by its digest, unpacked beside, then renamed."""

from __future__ import annotations

NO_PYTHON, OLD_PYTHON, DAMAGED = 71, 72, 73
"""Statuses: there is no python3; it is older than 3.9; what came is not what was sent."""

PYTHON = f"command -v python3 >/dev/null 2>&1 || exit {NO_PYTHON}; exec python3 -I "

LOOK = f"""
import io, json, os, sys, zipfile
if sys.version_info < (3, 9):
    sys.stderr.write(sys.version.split()[0]); sys.exit({OLD_PYTHON})
root, digest = sys.argv[1:3]
if not root:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    root = "/var/lib/buildstep/services" if os.geteuid() == 0 else os.path.join(home, "buildstep", "services")
    root = os.environ.get("BUILDSTEP_SERVICES_RECORDS") or root
folder = os.path.join(root, ".runtime", digest)
there = False
try:
    import hashlib
    with open(os.path.join(folder, "runtime.zip"), "rb") as file:
        data = file.read()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        there = hashlib.sha256(data).hexdigest() == digest and all(
            open(os.path.join(folder, name), "rb").read() == archive.read(name) for name in archive.namelist()
        )
except (OSError, zipfile.BadZipFile):
    pass
print(json.dumps({{"root": root, "there": there}}))
"""
"""Arguments: the directory of records, or an empty word; the runtime's digest."""

RECEIVE = f"""
import hashlib, os, shutil, sys, tarfile, tempfile, zipfile
kind, above, digest = sys.argv[1:4]
os.umask(0o022)
os.makedirs(above, 0o755 if kind == "zip" else 0o700, exist_ok=True)
for name in os.listdir(above):
    if name.startswith(".new-") or (kind == "tar" and name not in sys.argv[4:]):
        shutil.rmtree(os.path.join(above, name), ignore_errors=True)
new = tempfile.mkdtemp(prefix=".new-", dir=above)
try:
    sent, hasher = os.path.join(new, "runtime.zip"), hashlib.sha256()
    with open(sent, "wb") as file:
        while data := sys.stdin.buffer.read(1 << 20):
            hasher.update(data); file.write(data)
            sys.stdout.write("."); sys.stdout.flush()
    if hasher.hexdigest() != digest:
        sys.exit({DAMAGED})
    if kind == "zip":
        zipfile.ZipFile(sent).extractall(new)
    else:
        more = {{"filter": "fully_trusted"}} if hasattr(tarfile, "fully_trusted_filter") else {{}}
        with tarfile.open(sent) as archive:
            archive.extractall(new, **more)
        os.unlink(sent)
    target = os.path.join(above, digest)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(new, target)
finally:
    shutil.rmtree(new, ignore_errors=True)
"""
"""Arguments: zip or tar; the directory to put it in; its digest, which becomes its name there; digests that
stay besides. On standard input: what is sent. Prints something now and then, as a sign of life."""

HAVE = """
import json, os, sys
print(json.dumps([name for name in sys.argv[2:] if os.path.isdir(os.path.join(sys.argv[1], name))]))
"""
"""Arguments: a directory; names. Prints those that are there."""
