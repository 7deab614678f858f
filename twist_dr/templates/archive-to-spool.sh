#!/bin/sh
# Puts a file of write-ahead log into the spool of twist-dr. For servers that cannot load basic_archive (PostgreSQL 13 and 14):
#
#     archive_mode = on
#     archive_command = '/usr/local/bin/archive-to-spool.sh %p %f /var/lib/twist-dr/wal/erp/archived'
#     archive_timeout = 60
#
# Success is said only when the bytes are durable under their final name. The server asks again after a crash, so the same
# bytes under that name are a success; other bytes are another server's, and are never overwritten.
# Every failure is exit status 1: PostgreSQL does not count 126, 127 and signals in pg_stat_archiver.

fail() {
    echo "archive-to-spool.sh: $1" >&2
    exit 1
}

[ $# -eq 3 ] || fail "expected the path of the file, its name and the folder archived of the spool: archive-to-spool.sh %p %f FOLDER"
source=$1 name=$2 folder=$3
[ -f "$source" ] || fail "$source is not a file; see archive_command: %p comes first."
[ -d "$folder" ] || fail "the folder $folder does not exist; create it, or mount its disk."
final=$folder/$name
temporary=$folder/.archiving.$name.$$

# What a killed one left behind. One that still runs, whose server is gone, then fails at its rename: nobody listens to it.
for left in "$folder"/.archiving.*; do
    [ ! -e "$left" ] || rm -f "$left"
done

if [ -e "$final" ]; then
    cmp -s "$source" "$final" ||
        fail "$final has other bytes than $source: two servers archive into one folder. Nothing was overwritten; correct the archive_command of the other one."
    # It may have been renamed, and not yet made durable, when the machine went down.
    sync "$final" && sync "$folder" || fail "$final could not be made durable; check the disk of $folder."
    exit 0
fi

trap 'rm -f "$temporary"' EXIT
trap 'exit 1' HUP INT TERM
cp "$source" "$temporary" || fail "$source could not be copied to $folder; check that there is space and that the server's user may write there."
cmp -s "$source" "$temporary" || fail "the copy of $source in $folder has other bytes; check the disk."
sync "$temporary" || fail "$temporary could not be made durable; check the disk of $folder."
mv "$temporary" "$final" || fail "$temporary could not be renamed to $final; check $folder."
sync "$folder" || fail "$folder could not be made durable; check its disk."
