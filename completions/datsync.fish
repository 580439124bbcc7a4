# Completion of datsync for fish.
#
# SPDX-License-Identifier: MIT

# The command on the line: share, feed-share, feed while that lacks its second word, or nothing.
function __datsync_command
    set -l words (commandline -opc)
    if test "$words[2]" = feed
        string join -- - $words[2..3]
    else
        echo "$words[2]"
    end
end

function __datsync_at
    set -l command (__datsync_command)
    contains -- "$command" $argv
end

# What the next word beside the options is: folder, file, link, path, keys.
function __datsync_word
    set -l command (__datsync_command)
    set -l kinds folder
    switch $command
        case '' feed discover
            return
        case clone feed-clone
            set kinds link folder
        case doctor
            set kinds link
        case keys
            set kinds keys folder
        case ls cat
            set kinds folder path
        case feed-append
            set kinds folder file
    end
    set -l words (commandline -opc)
    set -e words[1..2]
    string match -q 'feed-*' -- $command; and set -e words[1]
    set -l next 1
    set -l value 0
    set -l only_words 0
    for word in $words
        if test $value = 1
            set value 0
        else if test $only_words = 0; and string match -q -- '-?*' $word
            switch $word
                case --
                    set only_words 1
                case --title --description --author --license --select --checkout --secret-key --secret-dir \
                    --block-size --range --listen --peer --max-peers --timeout --discovery-server --dht-bootstrap
                    set value 1
            end
        else
            set next (math $next + 1)
        end
    end
    test $command = feed-append; and test $next -gt 2; and set next 2
    echo $kinds[$next]
end

function __datsync_wants
    set -l kind (__datsync_word)
    test "$kind" = $argv[1]
end

# Also for what follows --secret-dir= in the same word.
function __datsync_folders
    __fish_complete_directories (commandline -ct | string replace -r -- '^--[^=]*=' '')
end

complete -c datsync -f
complete -c datsync -n '__datsync_at ""' -l version -d 'Print the version'
complete -c datsync -n '__datsync_at ""' -a create -d 'Make a drive of a folder'
complete -c datsync -n '__datsync_at ""' -a share -d 'Import what changed, then serve'
complete -c datsync -n '__datsync_at ""' -a clone -d 'Download a drive'
complete -c datsync -n '__datsync_at ""' -a pull -d 'Bring a clone up to date'
complete -c datsync -n '__datsync_at ""' -a sync -d 'Import or download, and serve'
complete -c datsync -n '__datsync_at ""' -a log -d 'Tell every change'
complete -c datsync -n '__datsync_at ""' -a status -d 'Tell what the drive is and holds'
complete -c datsync -n '__datsync_at ""' -a keys -d 'Print, export or import keys'
complete -c datsync -n '__datsync_at ""' -a verify -d 'Read everything and check it'
complete -c datsync -n '__datsync_at ""' -a ls -d 'List files and folders'
complete -c datsync -n '__datsync_at ""' -a cat -d 'Write one file to standard output'
complete -c datsync -n '__datsync_at ""' -a feed -d 'Bare feeds'
complete -c datsync -n '__datsync_at ""' -a discover -d 'Be a discovery server'
complete -c datsync -n '__datsync_at ""' -a doctor -d 'Tell what stands between this machine and its peers'
complete -c datsync -n '__datsync_at feed' -a create -d 'Make a feed'
complete -c datsync -n '__datsync_at feed' -a append -d 'Append files or standard input'
complete -c datsync -n '__datsync_at feed' -a cat -d 'Write the blocks to standard output'
complete -c datsync -n '__datsync_at feed' -a info -d 'Tell what the folder holds'
complete -c datsync -n '__datsync_at feed' -a verify -d 'Read everything and check it'
complete -c datsync -n '__datsync_at feed' -a share -d 'Serve'
complete -c datsync -n '__datsync_at feed' -a clone -d 'Download a feed'

complete -c datsync -n '__datsync_wants keys' -a 'export import'
complete -c datsync -n '__datsync_wants keys' -a '(__datsync_folders)'
complete -c datsync -n '__datsync_wants folder' -a '(__datsync_folders)'
complete -c datsync -n '__datsync_wants file' -F

complete -c datsync -s h -l help -d 'Print the options'
complete -c datsync -n 'not __datsync_at "" feed' -l quiet -d 'Results and errors only'
complete -c datsync -n 'not __datsync_at "" feed cat feed-cat' -l json -d 'One JSON object a line'
complete -c datsync -n '__datsync_at create share' -l title -x -d 'For a new dat.json'
complete -c datsync -n '__datsync_at create share' -l description -x -d 'For a new dat.json'
complete -c datsync -n '__datsync_at create share' -l author -x -d 'For a new dat.json'
complete -c datsync -n '__datsync_at create share' -l license -x -d 'For a new dat.json'
complete -c datsync -n '__datsync_at share' -l watch -d 'Go on importing'
complete -c datsync -n '__datsync_at create share sync status' -l ignore-hidden -d 'Leave out hidden names'
complete -c datsync -n '__datsync_at create share sync status' -l no-ignore-hidden -d 'Take in hidden names'
complete -c datsync -n '__datsync_at clone pull sync' -l select -x -d 'Only these files and folders'
complete -c datsync -n '__datsync_at clone pull ls cat' -l checkout -x -d 'This version'
complete -c datsync -n '__datsync_at create share clone' -l archive -d 'Keep all versions'
complete -c datsync -n '__datsync_at clone pull sync keys' -l force -d 'Overwrite what was changed here'
complete -c datsync -n '__datsync_at ls' -s l -l long -d 'Mode, size and time too'
complete -c datsync -n '__datsync_at ls' -l recursive -d 'Everything beneath'
complete -c datsync -n '__datsync_at feed-create' -l secret-key -rF -d 'Use this secret key'
complete -c datsync -n '__datsync_at feed-append' -l block-size -x -d 'Bytes of a block'
complete -c datsync -n '__datsync_at feed-append feed-cat' -l lines -d 'A block is a line'
complete -c datsync -n '__datsync_at feed-cat feed-clone' -l range -x -d 'Only the blocks A:B'
complete -c datsync -n '__datsync_at clone pull sync' -l all -d 'Drop the selection'
set -l networked share clone pull sync ls cat feed-share feed-clone
complete -c datsync -n "__datsync_at $networked discover doctor" -l listen -x -d 'Take connections here'
complete -c datsync -n "__datsync_at $networked doctor" -l no-listen -d 'Take no connections'
complete -c datsync -n "__datsync_at $networked" -l peer -x -d 'Dial this peer'
complete -c datsync -n "__datsync_at $networked" -l max-peers -x -d 'Connections at once'
complete -c datsync -n "__datsync_at $networked doctor" -l no-discovery -d 'Look for no peers'
complete -c datsync -n "__datsync_at $networked doctor" -l lan -d 'Look in the local network alone'
complete -c datsync -n "__datsync_at $networked doctor" -l no-mdns -d 'Not in the local network'
complete -c datsync -n "__datsync_at $networked doctor" -l no-server -d 'Not at discovery servers'
complete -c datsync -n "__datsync_at $networked doctor" -l no-dht -d 'Not in the DHT'
complete -c datsync -n "__datsync_at $networked doctor" -l discovery-server -x -d 'Ask this one'
complete -c datsync -n "__datsync_at $networked doctor" -l dht-bootstrap -x -d 'Begin at this node'
complete -c datsync -n '__datsync_at doctor' -l wait -d 'Print a link for a doctor elsewhere'
complete -c datsync -n '__datsync_at clone pull ls cat feed-clone' -l timeout -x -d 'Seconds without a new byte'
complete -c datsync -n '__datsync_at clone feed-clone' -l live -d 'Stay when complete'
complete -c datsync -n '__datsync_at create share clone pull sync log status keys verify ls cat' -l secret-dir \
    -xa '(__datsync_folders)' -d 'Where secret keys are kept'
complete -c datsync -n '__datsync_at create share clone pull sync feed-create feed-append feed-clone' -l no-sync \
    -d 'Do not wait for the disk'
