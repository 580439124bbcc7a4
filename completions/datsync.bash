# Completion of datsync for bash 4 and later; nothing else is needed.
#
# SPDX-License-Identifier: MIT

# The options of a command; a = after a name: it takes a value. The lists are split at their spaces.
# shellcheck disable=SC2086,SC2207
_datsync_options() {
    local about='title= description= author= license=' hidden='ignore-hidden no-ignore-hidden'
    local finding='listen= no-listen no-discovery lan no-mdns no-server no-dht discovery-server= dht-bootstrap='
    local network="$finding peer= max-peers="
    local own='secret-dir=' general='json quiet help'

    case $1 in
    create) echo $about $hidden archive $own no-sync $general ;;
    share) echo $about watch $hidden archive $network $own no-sync $general ;;
    clone) echo select= all checkout= archive force $network timeout= live $own no-sync $general ;;
    pull) echo select= all checkout= force $network timeout= $own no-sync $general ;;
    sync) echo $hidden select= all force $network $own no-sync $general ;;
    log | verify) echo $own $general ;;
    status) echo $hidden $own $general ;;
    keys) echo force $own $general ;;
    ls) echo checkout= long recursive $network timeout= $own $general ;;
    cat) echo checkout= $network timeout= $own quiet help ;;
    'feed create') echo secret-key= no-sync $general ;;
    'feed append') echo block-size= lines no-sync $general ;;
    'feed cat') echo lines range= quiet help ;;
    'feed info' | 'feed verify') echo $general ;;
    'feed share') echo $network $general ;;
    discover) echo listen= $general ;;
    doctor) echo $finding wait $general ;;
    'feed clone') echo range= $network timeout= live no-sync $general ;;
    esac
}

# What the words beside the options are, in their order; + behind the last one: any number.
_datsync_words() {
    case $1 in
    clone | 'feed clone') echo link folder ;;
    doctor) echo link ;;
    keys) echo export,import,folder folder ;;
    ls | cat) echo folder path ;;
    'feed append') echo folder file+ ;;
    discover) echo path+ ;; # it takes none, and nothing is offered
    feed | '') ;;
    *) echo folder ;;
    esac
}

_datsync() {
    local IFS=$' \t\n' at name command='' options='' value='' only_words='' offer='' word='' plain=0
    local words=() kinds=()

    # Readline divides words at `=` and `:`; here they are put together again.
    for ((at = 1; at <= COMP_CWORD; at++)); do
        name=${COMP_WORDS[at]}
        if [[ $at -gt 1 && ($name == [=:]* || ${COMP_WORDS[at - 1]} == *[=:]) ]]; then
            words[${#words[@]} - 1]+=$name
        else
            words+=("$name")
        fi
    done

    for ((at = 0; at < ${#words[@]} - 1; at++)); do
        name=${words[at]}
        if [[ $value ]]; then
            value=''
        elif [[ ! $command || $command == feed ]]; then
            command+=${command:+ }$name
            options=" $(_datsync_options "$command") "
        elif [[ ! $only_words && $name == -- ]]; then
            only_words=1
        elif [[ ! $only_words && $name == -?* ]]; then
            [[ $options == *" ${name#--}= "* ]] && value=${name#--}
        else
            plain=$((plain + 1))
        fi
    done
    word=${words[at]}

    if [[ ! $command ]]; then
        offer='create share clone pull sync log status keys verify ls cat feed discover doctor --help --version'
    elif [[ $command == feed ]]; then
        offer='create append cat info verify share clone --help'
    elif [[ $value || ! $only_words && $word == --*=* ]]; then
        name=${word%%=*}
        case ${value:-${name#--}} in
        secret-dir) offer="folder" ;;
        secret-key) offer="file" ;;
        esac
    elif [[ ! $only_words && $word == -* ]]; then
        for name in $options; do
            offer+=" --${name%=}"
        done
    else
        kinds=($(_datsync_words "$command"))
        offer=${kinds[plain]-${kinds[${#kinds[@]} - 1]}+}
        # Beyond the last one, only a kind with + goes on.
        [[ $plain -lt ${#kinds[@]} || $offer == *++ ]] && offer=${offer//[+,]/ } || offer=''
    fi

    # The names of files are left to readline, which knows how to quote them.
    COMPREPLY=()
    for name in $offer; do
        case $name in
        folder) compopt -o plusdirs ;;
        file) compopt -o default ;;
        link | path) ;;
        "$word"*) COMPREPLY+=("$name") ;;
        esac
    done
}

complete -F _datsync datsync
