#!/bin/sh
# Prints the usable Pythons on the PATH, one per minor version: "3.12 /usr/bin/python3.12".
# Usable means that it runs (a version manager's shim may not), is 3.11 or newer, and can make a
# virtual environment with pip in it. The first line is the one to prefer: plain `python3`, else the
# newest. Arguments are tried instead of the usual names.
# With none at all, says on standard error what is missing and how to get it, and fails.
set -u

[ $# -gt 0 ] || set -- python3 python3.14 python3.13 python3.12 python3.11

version='import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))'
seen=' '
too_old=
lacks_venv=

consider() {
    found=$("$1" -c "$version" 2>/dev/null)
    new_enough=$?
    [ -n "$found" ] || return 0
    if [ $new_enough -ne 0 ]; then
        too_old="${too_old:+$too_old, }$1 is $found"
    elif ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
        lacks_venv=${lacks_venv:-$2}
    else
        case $seen in *" $found "*) return 0 ;; esac
        seen="$seen$found "
        printf '%s %s\n' "$found" "$1"
    fi
}

for name in "$@"; do
    case $name in
    */*) consider "$name" "${name##*/}" ;;
    *)
        # Every folder of the PATH: behind a shim that does not run may be one that does.
        saved_ifs=$IFS
        IFS=:
        for folder in $PATH; do
            [ -x "$folder/$name" ] && consider "$folder/$name" "$name"
        done
        IFS=$saved_ifs
        ;;
    esac
done

[ "$seen" = ' ' ] || exit 0
if [ -n "$lacks_venv" ]; then
    echo "$lacks_venv cannot make virtual environments: its module ensurepip is missing." >&2
    echo "On Debian and Ubuntu:  sudo apt-get install $lacks_venv-venv" >&2
else
    echo "Python 3.11 or newer is needed, and none was found as $*${too_old:+ ($too_old)}." >&2
    echo "To name one yourself:  make demo PYTHON=/path/to/python3" >&2
fi
exit 1
