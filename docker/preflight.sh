#!/bin/sh
# What this host lacks for `docker compose up`, each in one sentence with its remedy.
#
#   docker/preflight.sh        a host with an NVIDIA GPU
#   docker/preflight.sh cpu    any other: before `docker compose up cpu`
#
# Exit code 0: nothing is missing; 1: something is.
set -u
cd "$(dirname "$0")/.." || exit 1
CUDA=13
OLDEST_DRIVER=580.65
OLDEST_GPU=7.5
missing=0

lacks() { echo "error: $1" >&2; missing=1; }

# A setting as compose sees it: from the environment, else from .env, else $2.
setting() {
  value=$(printenv "$1") || value=$(sed -n "s/^$1=//p" .env 2>/dev/null | tail -n 1)
  echo "${value:-$2}"
}

# Whether version $1 is older than $2, by their first two numbers.
older() {
  awk -v a="$1" -v b="$2" 'BEGIN { split(a, x, "."); split(b, y, "."); exit !(x[1]+0 < y[1]+0 || x[1]+0 == y[1]+0 && x[2]+0 < y[2]+0) }'
}

docker_here() {
  if ! command -v docker >/dev/null; then
    lacks "Docker is not installed; see docs.docker.com/engine/install"
  elif ! said=$(docker info --format '{{json .Runtimes}} {{json .}}' 2>&1); then
    lacks "the Docker daemon does not answer ($(echo "$said" | tail -n 1)); sudo systemctl start docker, or sudo usermod -aG docker $(id -un) and log in again"
  elif ! docker compose version >/dev/null 2>&1; then
    lacks "Docker has no compose plugin; sudo apt install docker-compose-plugin"
  else
    return 0
  fi
  return 1
}

gpu_here() {
  if ! command -v nvidia-smi >/dev/null; then
    lacks "there is no NVIDIA driver (no nvidia-smi); install driver $OLDEST_DRIVER or newer, or serve on the CPU: docker compose up cpu"
    return 1
  fi
  if ! cards=$(nvidia-smi --query-gpu=driver_version,compute_cap,name --format=csv,noheader 2>&1) || [ -z "$cards" ]; then
    lacks "NVIDIA's driver does not answer ($(echo "$cards" | head -n 1)); sudo modprobe nvidia, or install it again and reboot"
    return 1
  fi
  driver=$(echo "$cards" | head -n 1 | cut -d, -f1)
  if older "$driver" "$OLDEST_DRIVER"; then
    lacks "NVIDIA's driver is $driver, and CUDA $CUDA needs $OLDEST_DRIVER or newer; upgrade it, or serve on the CPU: docker compose up cpu"
    return 1
  fi
  newest=$(echo "$cards" | sort -t, -k2 -rn | head -n 1)
  power=$(echo "$newest" | cut -d, -f2 | tr -d ' ')
  case $power in [0-9]*)
    if older "$power" "$OLDEST_GPU"; then
      lacks "the GPU $(echo "$newest" | cut -d, -f3- | sed 's/^ *//') has compute capability $power, and INT8 needs $OLDEST_GPU (Turing) or newer; serve on the CPU: docker compose up cpu"
      return 1
    fi;;
  esac
}

toolkit_here() {
  case $said in *'"nvidia":'* | *nvidia.com/gpu*) return;; esac
  command -v nvidia-container-runtime-hook >/dev/null && return
  if command -v nvidia-ctk >/dev/null; then
    lacks "Docker does not know the NVIDIA Container Toolkit; sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
  else
    lacks "the NVIDIA Container Toolkit is not installed; sudo apt install nvidia-container-toolkit (NVIDIA's repository), then sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
  fi
}

port_here() {
  port=$(setting MAREY_PORT 8000)
  taken=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$(printf '%04X' "$port")" '$4 == "0A" && $2 ~ ":" port "$" { print "yes"; exit }')
  if [ -n "$taken" ]; then
    lacks "port $port is taken, by a running Marey perhaps (docker compose ps); stop it, or set MAREY_PORT in .env"
  fi
}

bundles_here() {
  bundles=$(setting MAREY_BUNDLES ./models/bundles)
  for manifest in "$bundles"/manifest.json "$bundles"/*/manifest.json; do
    [ -f "$manifest" ] && return
  done
  lacks "there is no bundle in $bundles; set MAREY_BUNDLES in .env to a folder of bundles, each with a manifest.json"
}

docker_here && reachable=1 || reachable=0
if [ "${1:-gpu}" != cpu ]; then
  gpu_here && [ "$reachable" = 1 ] && toolkit_here
fi
port_here
bundles_here
[ "$missing" = 0 ] && echo "nothing is missing: docker compose up${1:+ $1}"
exit "$missing"
