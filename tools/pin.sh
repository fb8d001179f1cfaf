#!/bin/sh
# Changes a pin of the image's programs: MODULE@VERSION in every go.mod that has it, or go@VERSION for the compiler. Also updates
# the image tags that contain the version of distribution or Go.
set -eu
module=${1%@*}
version=${1##*@}
cd "$(dirname "$0")/.."
found=
for folder in docker/registry docker/sbom sandbox/tools/registry; do
  [ -f "$folder/go.mod" ] || continue
  if [ "$module" = go ]; then
    case $folder in docker/*) (cd "$folder" && go mod edit "-toolchain=go${version#v}") ;; esac
  elif grep -q "[[:space:]]$module v" "$folder/go.mod"; then
    (cd "$folder" && go get "$module@$version" && go mod tidy)
  else
    continue
  fi
  found=1
done
[ "$found" ] || { echo "PIN: no go.mod of docker/ requires $module. Name one that does, such as github.com/distribution/distribution/v3" >&2; exit 1; }
distribution=$(sed -n 's|^.*distribution/distribution/v3 v\([0-9.]*\).*$|\1|p' docker/registry/go.mod)
toolchain=$(sed -n 's|^toolchain go||p' docker/registry/go.mod)
for file in docker/Dockerfile docker/sbom/Dockerfile roles/image/defaults/main.yml roles/image/meta/argument_specs.yml \
  plugins/modules/cache_image.py sandbox/settings.py; do
  [ ! -f "$file" ] || sed -i -e "s|library/registry:[0-9][0-9.]*|library/registry:$distribution|" \
    -e "s|library/golang:[0-9.]*-alpine|library/golang:$toolchain-alpine|" "$file"
done
