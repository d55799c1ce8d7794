"""What is run on the other side of ssh: POSIX sh, with the tools that every system has.

Each script gets the top of the store as `$1`, in most a name as `$2`. Where it can, it uses what is better:
`flock`, GNU find, `sync` of single files. The statuses that mean something are below.
"""

from __future__ import annotations

MISSING, DIFFERENT, THERE, NOT_OURS, LOCKED, CUT_SHORT = 61, 62, 63, 64, 65, 66
"""No such blob or store; another version; the blob is there already; the directory is another user's, or
others may write to it; somebody holds the lock for too long; fewer bytes came than were sent."""

STATUSES = (0, MISSING, DIFFERENT, THERE, NOT_OURS, LOCKED, CUT_SHORT)

_ENTER = f"""
[ -d "$1" ] || exit {MISSING}
cd "$1" || exit 1
"""

_PREPARE = f"""
umask 077
[ -d "$1" ] || mkdir -p -- "$1" || exit 1
umask 022
cd "$1" || exit 1
[ -O . ] || exit {NOT_OURS}
case $(ls -ld .) in ?????w*|????????w*) exit {NOT_OURS};; esac
mkdir -p tmp/ssh || exit 1
durable() {{ sync -- "$1" 2>/dev/null || sync; }}
"""
"""Make the store's directory if it is not there, and refuse one that others could put links into."""

_RECEIVE = f"""
new=tmp/ssh/$$.$(date +%s)
trap 'rm -f "$new"' EXIT
cat >"$new" || exit 1
[ $(($(wc -c <"$new"))) -eq "$3" ] || exit {CUT_SHORT}
"""
"""Write the standard input, `$3` bytes, to a new file: a connection that breaks looks like its end."""

_LINK = f"""
dir=$(dirname "$2")
chmod 444 "$new" && durable "$new" && mkdir -p "$dir" || exit 1
if ln "$new" "$2" 2>/dev/null; then durable "$dir"; exit 0; fi
[ -f "$2" ] && exit {THERE}
echo "cannot link $2" >&2
exit 1
"""

_HASH = """
hash() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$1"
  elif command -v shasum >/dev/null 2>&1; then shasum -a 256 <"$1"
  elif command -v digest >/dev/null 2>&1; then digest -a sha256 "$1"
  elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256 -r <"$1"
  else sha256 -q "$1"
  fi | cut -d" " -f1
}
"""

_LOCK = f"""
old() {{ [ -n "$(find tmp/ssh/swap.d -prune -mmin +1 2>/dev/null)" ]; }}
if command -v flock >/dev/null 2>&1; then
  exec 9>>tmp/swap.lock && flock 9 || exit 1
else
  tries=0
  until mkdir tmp/ssh/swap.d 2>/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 30 ] || exit {LOCKED}
    if old && mkdir tmp/ssh/swap.breaking 2>/dev/null; then
      old && rmdir tmp/ssh/swap.d
      rmdir tmp/ssh/swap.breaking
    fi
    sleep 1
  done
  trap 'rmdir tmp/ssh/swap.d; rm -f "$new"' EXIT
fi
"""
"""Hold the lock that `local` uses too; without `flock` a directory is the lock. One that is older than any
swap takes was left by a dead process, and is removed by one of those that wait, who holds a lock for that."""

PREPARE = (
    _PREPARE
    + """
find tmp/ssh -type f -mtime +1 -exec rm -f {} + 2>/dev/null
exit 0
"""
)
"""Before the first write of a process: remove what dead ones left. A directory store does not sweep
`tmp/ssh`: what is written by ssh holds no lock."""

EXISTS = (
    _ENTER
    + """
while IFS= read -r name; do
  [ -f "$name" ] && [ ! -h "$name" ] && printf '%s\\n' "$name"
done
exit 0
"""
)

LIST = (
    _ENTER
    + """
[ -d "$2" ] || exit 0
if find . -prune -printf "" 2>/dev/null; then
  find "$2" -ignore_readdir_race -path ./tmp -prune -o -type f -printf '%s %T@ %p\\n'
elif stat -c %s . >/dev/null 2>&1; then
  find "$2" -path ./tmp -prune -o -type f -exec stat -c '%s %Y %n' {} +
else
  find "$2" -path ./tmp -prune -o -type f -exec stat -f '%z %m %N' {} +
fi
"""
)

READ = (
    _ENTER
    + f"""
[ -f "$2" ] && [ ! -h "$2" ] || exit {MISSING}
case $3:$4 in
  0:) cat "$2" ;;
  -*:) tail -c "${{3#-}}" "$2" ;;
  -*) tail -c "${{3#-}}" "$2" | head -c "$4" ;;
  *:) tail -c "+$(($3 + 1))" "$2" ;;
  *) tail -c "+$(($3 + 1))" "$2" | head -c "$4" ;;
esac
"""
)
"""`$3` where to begin, `$4` how many bytes, empty: all."""

WRITE = _PREPARE + f'[ ! -f "$2" ] || exit {THERE}\n' + _RECEIVE + _LINK

COMMIT = (
    _PREPARE
    + f"""
new=$4
trap 'rm -f "$new"' EXIT
[ ! -f "$2" ] || exit {THERE}
[ -f "$new" ] && [ $(($(wc -c <"$new"))) -eq "$3" ] || exit {CUT_SHORT}
"""
    + _LINK
)
"""Give a file that was sent to `$4` its name."""

DELETE = (
    _PREPARE
    + """
while IFS= read -r name; do
  rm -f -- "$name" || exit 1
done
exit 0
"""
)

SWAP = (
    _PREPARE
    + _HASH
    + _RECEIVE
    + _LOCK
    + f"""
have=
[ ! -f "$2" ] || have=$(hash "$2")
[ "$have" = "$4" ] || exit {DIFFERENT}
dir=$(dirname "$2")
if [ "$5" = remove ]; then
  rm -f "$2" || exit 1
  [ ! -d "$dir" ] || durable "$dir"
  exit 0
fi
mkdir -p "$dir" && chmod 644 "$new" && durable "$new" && mv -f "$new" "$2" || exit 1
durable "$dir"
exit 0
"""
)
"""`$4` the version that is to be replaced: the SHA-256 of its bytes, empty for none; `$5` set or remove."""
