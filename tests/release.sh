#!/usr/bin/env bash
# What a release must pass: a wheel that installs bare, speaks, serves a request, and leaves nothing when it goes.
#   tests/release.sh [FOLDER]    where the wheel goes; build/release if not given
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-build/release}")
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
say() { printf '\n== %s\n' "$*"; }

say "building the wheel"
"${PYTHON:-python3}" -m venv "$work/venv"
pip() { "$work/venv/bin/pip" --disable-pip-version-check -q "$@"; }
rm -rf "$out"
pip wheel --no-deps -w "$out" .
wheel=$(ls "$out"/llasa-*.whl)
"$work/venv/bin/python" - "$wheel" <<'PY'
import sys, zipfile
names = zipfile.ZipFile(sys.argv[1]).namelist()
strange = [name for name in names if not name.startswith(("llasa/", "llasa-")) or name.endswith((".pt", ".bin", ".pkl"))]
assert not strange, strange
assert any(name.startswith("llasa/assets/starter/") for name in names), "no starter"
PY

say "installing it bare"
pip install "$(grep '^torch==' constraints.txt)"
pip install -c constraints.txt "$wheel"
pip check

say "speaking"
cd "$work"
export LLASA_HOME="$work/home"
"$work/venv/bin/llasa" say "This is a release." -o said.wav
[ "$(stat -c %s said.wav)" -gt 20000 ]

say "serving a request"
pip install -c "$OLDPWD/constraints.txt" "$wheel[serve]"
"$work/venv/bin/llasa" serve --port 0 2> served.log &
server=$!
for _ in $(seq 120); do
  url=$(grep -o 'http://[0-9.:]*' served.log || true)
  [ -z "$url" ] || break
  kill -0 "$server" || { cat served.log >&2; exit 1; }
  sleep 0.5
done
"$work/venv/bin/python" - "$url" <<'PY'
import json, sys, urllib.request as web
body = json.dumps({"model": "tts-1", "input": "And this is the service.", "response_format": "wav"}).encode()
asked = web.Request(sys.argv[1] + "/v1/audio/speech", body, {"Content-Type": "application/json"})
data = web.urlopen(asked, timeout=60).read()
assert data[:4] == b"RIFF" and len(data) > 20000, data[:200]
PY
kill "$server"
wait "$server" || true
server=

say "removing it"
pip uninstall -y llasa
left=$(find "$work/venv" -iname 'llasa*' -not -path '*/__pycache__/*' | head)
[ -z "$left" ] || { echo "left behind: $left" >&2; exit 1; }
say "the wheel is in $out"
