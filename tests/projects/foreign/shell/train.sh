#!/bin/bash
# A project in another language: it talks to the tracking server by HTTP.
set -eu

while (($#)); do
    case $1 in
    --width) width=$2 ;;
    --label) label=$2 ;;
    esac
    shift 2
done
if ((width % 3 == 0)); then
    echo "a width of $width is not supported" >&2
    exit 3
fi
for step in $(seq 1 6); do
    time=$(date +%s%3N)
    curl -fsS -o /dev/null -H 'Content-Type: application/json' "$MLFLOW_TRACKING_URI/api/2.0/mlflow/runs/log-metric" -d \
        "{\"run_id\": \"$MLFLOW_RUN_ID\", \"key\": \"score\", \"value\": $((width * step)), \"timestamp\": $time, \"step\": $step}"
    sleep 0.3
done
printf 'label: %s\n' "$label"
