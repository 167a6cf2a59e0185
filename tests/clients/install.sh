#!/usr/bin/env bash
# Fetches the client libraries of the real-client tests: paho-mqtt into `.venv` at the root of the repository and
# MQTT.js into `node_modules` beside this file. mosquitto_pub and mosquitto_sub, haproxy and a Chromium come from the
# system's packages.
# Versions are pinned in requirements.txt and package-lock.json. Running it twice is harmless.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

if [ ! -x "$root/.venv/bin/python" ]; then
    python3 -m venv "$root/.venv"
fi
"$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"

(cd "$here" && npm ci --silent)

for tool in mosquitto_pub:mosquitto-clients mosquitto_sub:mosquitto-clients haproxy:haproxy chromium:chromium; do
    if ! PATH=$PATH:/usr/sbin command -v "${tool%%:*}" >/dev/null; then
        echo "${tool%%:*} is missing: install the package '${tool#*:}' with your system's package manager" >&2
    fi
done
