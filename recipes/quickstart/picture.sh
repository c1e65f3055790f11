#!/usr/bin/env bash
# The picture in the README: the upper part of a run's report page. Needs chromium.
#   bash recipes/quickstart/picture.sh runs/running_value-seed0
set -euo pipefail
page=$(realpath "$1/report.html")
cd "$(dirname "$0")/../.."
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1020,1250 --screenshot=docs/report.png "file://$page"
