#!/usr/bin/env bash
# gen.sh: regenerates the raw layers of the bindings from include/attn/attn.h.
#
#   bindings/gen.sh [LANGUAGE...]          writes them into the tree
#   bindings/gen.sh --check [LANGUAGE...]  says which are stale, and fails if one is
#
# Python's has no copy in the tree: cffi makes it from the header whenever the package is built.
# shellcheck disable=SC2317  # functions are called by a name that is put together
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

languages=(go rust)

# generate_LANGUAGE DIR: writes the generated files into DIR, under their paths in the tree.
generate_go() {
  local folder=$1/bindings/go/raw version
  version=$(swig -version | sed -n 's/^SWIG Version //p')
  if [[ $version != 4.1.* ]]; then
    echo "go: SWIG is $version; must be 4.1, whose output differs from that of others" >&2
    return 1
  fi
  mkdir -p "$folder"
  env -C bindings swig -Werror -go -cgo -intgosize 64 -DSWIGWORDSIZE64 -I../include \
    -outdir "$folder" -o "$folder/raw_wrap.c" attn.i
  gofmt -w "$folder/raw.go"
}

generate_rust() {
  local folder=$1/bindings/rust/attn-sys/src
  mkdir -p "$folder"
  # DOCS_RS: from the header in the tree, without a library.
  DOCS_RS=1 LC_ALL=C env -C bindings/rust cargo run --quiet --locked --package attn-sys \
    --example bindings >"$folder/bindings.rs"
}

check=''
if [[ ${1-} == --check ]]; then
  check=1
  shift
fi
if (($# > 0)); then languages=("$@"); fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stale=0
for language in "${languages[@]}"; do
  "generate_$language" "$scratch"
done
while IFS= read -r file; do
  if cmp --silent "$scratch/$file" "$file"; then continue; fi
  if [[ $check ]]; then
    echo "stale, run bindings/gen.sh: $file"
    diff -u "$file" "$scratch/$file" || true
    stale=1
  else
    cp "$scratch/$file" "$file"
    echo "written: $file"
  fi
done < <(cd "$scratch" && find . -type f -printf '%P\n' | sort)
exit "$stale"
