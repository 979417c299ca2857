#!/bin/bash
set -eu
while (($#)); do
    case $1 in --alpha) alpha=$2 ;; --loss) loss=$2 ;; esac
    shift 2
done
python "$(dirname "$0")/train.py" "$alpha" "$loss"
