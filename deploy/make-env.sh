#!/usr/bin/env bash
# Writes .env, or the file named, from .env.sample: a random password wherever the sample has none.
#
# A file that is there keeps what it has, because the servers keep it too; only passwords that a
# newer sample asks for are added.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077
file=${1:-.env}

# Letters and digits only: they go into URLs.
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

if [[ ! -e $file ]]; then
    while IFS= read -r line; do
        [[ $line != *_PASSWORD= ]] || line=$line$(random)
        printf '%s\n' "$line"
    done < .env.sample > "$file.new"
    mv "$file.new" "$file"
    exit
fi
grep -oE '^[A-Z_]+_PASSWORD=$' .env.sample | while IFS= read -r name; do
    grep -q "^$name" "$file" || printf '%s%s\n' "$name" "$(random)" >> "$file"
done
