# Made by "python docs/generate.py" with shtab (Apache License 2.0); a test compares them.

_shtab_ifserver_subparsers=(run serve worker publish check settings status top pause resume pool completion)

_shtab_ifserver_run_option_strings=(-h --help --help-all --config -b --host --bind -p --port -u --unix --unix-socket --unix-mode --fd -e --endpoints --endpoint --certfile --keyfile --broker-wait --queue-timeout --pause-timeout -t --response-timeout --http-timeout --websocket-connect-timeout --websocket_connect_timeout --resume-timeout --websocket-timeout --websocket_timeout --ping-interval --ping-timeout --close-timeout --front-max-websocket-message-bytes --max-websocket-message-bytes --worker-max-websocket-message-bytes --max-websocket-fragments --resumable-paths --resumable --allowed-origins --no-websocket-compression --websocket-compression-window-bits --websocket-compression-memory-level --header-timeout --keep-alive-timeout --body-timeout --write-timeout --max-unsent-bytes --group-overflow --max-connections --max-connections-per-client --uncounted-networks --max-header-bytes --max-headers --max-body-bytes --whole-body-bytes --max-pipelined --underscores-in-headers --retry-after --retry-methods --shutdown-delay --front-drain-timeout --worker-drain-timeout --drain-timeout --root-path -s --server-header --server-name --trusted-proxies --proxy-protocol --proxy-protocol-networks --proxy-protocol-timeout --access-log --access-log-format --no-access-log-queries --no-request-id --file-roots --file-root --server-timing --request-start --canary-by --front-tracing --worker-tracing --tracing --front-admin --admin --front-admin-hosts --admin-hosts --application --http --factory --interface --threads --stream-uploads --app-dir --env-file -w --worker-processes --workers --processes --concurrency --max-streams --pull-batch --file-header --max-requests --max-requests-jitter --shutdown-timeout --stall-timeout --restart-delay --max-restart-delay --reload --reload-dirs --reload-dir --reload-include --reload-exclude -v --verbosity --log-format --log-to --proxy-headers --no-server-name)
_shtab_ifserver_serve_option_strings=(-h --help --help-all --config -b --host --bind -p --port -u --unix --unix-socket --unix-mode --fd -e --endpoints --endpoint --certfile --keyfile --listen-processes --processes --broker-wait --queue-timeout --pause-timeout -t --response-timeout --http-timeout --websocket-connect-timeout --websocket_connect_timeout --resume-timeout --websocket-timeout --websocket_timeout --ping-interval --ping-timeout --close-timeout --front-max-websocket-message-bytes --max-websocket-message-bytes --max-websocket-fragments --resumable-paths --resumable --allowed-origins --no-websocket-compression --websocket-compression-window-bits --websocket-compression-memory-level --header-timeout --keep-alive-timeout --body-timeout --write-timeout --max-unsent-bytes --group-overflow --max-connections --max-connections-per-client --uncounted-networks --max-header-bytes --max-headers --max-body-bytes --whole-body-bytes --max-pipelined --underscores-in-headers --retry-after --retry-methods --shutdown-delay --front-drain-timeout --drain-timeout --root-path -s --server-header --server-name --trusted-proxies --proxy-protocol --proxy-protocol-networks --proxy-protocol-timeout --access-log --access-log-format --no-access-log-queries --no-request-id --file-roots --file-root --server-timing --request-start --canary-by --front-tracing --tracing --front-admin --admin --front-admin-hosts --admin-hosts --clusters --cluster --home --placement --broker-grace --prefix --request-capacity --inbox-capacity --inbox-expiry --request-expiry -v --verbosity --log-format --log-to --proxy-headers --no-server-name)
_shtab_ifserver_worker_option_strings=(-h --help --help-all --config --clusters --cluster --home --placement --broker-grace --prefix --request-capacity --inbox-capacity --inbox-expiry --request-expiry --application --http --pools --pool --factory --interface --threads --stream-uploads --app-dir --env-file -w --worker-processes --workers --processes --concurrency --max-streams --pull-batch --worker-max-websocket-message-bytes --max-websocket-message-bytes --file-header --max-requests --max-requests-jitter --worker-drain-timeout --drain-timeout --shutdown-timeout --stall-timeout --restart-delay --max-restart-delay --reload --reload-dirs --reload-dir --reload-include --reload-exclude --worker-tracing --tracing --worker-admin --admin --worker-admin-hosts --admin-hosts -v --verbosity --log-format --log-to)
_shtab_ifserver_publish_option_strings=(-h --help --help-all --config --json --bytes --close --exclude --admin --clusters --cluster --home --placement --broker-grace --prefix --request-capacity --inbox-capacity --inbox-expiry --request-expiry -v --verbosity --log-format --log-to)
_shtab_ifserver_check_option_strings=(-h --help --help-all --config --json --clusters --cluster --home --placement --broker-grace --prefix --request-capacity --inbox-capacity --inbox-expiry --request-expiry -v --verbosity --log-format --log-to)
_shtab_ifserver_settings_option_strings=(-h --help --help-all --config --json --example -b --host --bind -p --port -u --unix --unix-socket --unix-mode --fd -e --endpoints --endpoint --certfile --keyfile --listen-processes -w --worker-processes --workers --processes --broker-wait --queue-timeout --pause-timeout -t --response-timeout --http-timeout --websocket-connect-timeout --websocket_connect_timeout --resume-timeout --websocket-timeout --websocket_timeout --ping-interval --ping-timeout --close-timeout --front-max-websocket-message-bytes --max-websocket-message-bytes --worker-max-websocket-message-bytes --max-websocket-fragments --resumable-paths --resumable --allowed-origins --no-websocket-compression --websocket-compression-window-bits --websocket-compression-memory-level --header-timeout --keep-alive-timeout --body-timeout --write-timeout --max-unsent-bytes --group-overflow --max-connections --max-connections-per-client --uncounted-networks --max-header-bytes --max-headers --max-body-bytes --whole-body-bytes --max-pipelined --underscores-in-headers --retry-after --retry-methods --shutdown-delay --front-drain-timeout --worker-drain-timeout --drain-timeout --root-path -s --server-header --server-name --trusted-proxies --proxy-protocol --proxy-protocol-networks --proxy-protocol-timeout --access-log --access-log-format --no-access-log-queries --no-request-id --file-roots --file-root --server-timing --request-start --canary-by --front-tracing --worker-tracing --tracing --front-admin --worker-admin --admin --front-admin-hosts --worker-admin-hosts --admin-hosts --clusters --cluster --home --placement --broker-grace --prefix --request-capacity --inbox-capacity --inbox-expiry --request-expiry --application --http --pools --pool --factory --interface --threads --stream-uploads --app-dir --env-file --concurrency --max-streams --pull-batch --file-header --max-requests --max-requests-jitter --shutdown-timeout --stall-timeout --restart-delay --max-restart-delay --reload --reload-dirs --reload-dir --reload-include --reload-exclude -v --verbosity --log-format --log-to --proxy-headers --no-server-name)
_shtab_ifserver_status_option_strings=(-h --help --admin --config --json)
_shtab_ifserver_top_option_strings=(-h --help --admin --config)
_shtab_ifserver_pause_option_strings=(-h --help --admin --config --for --wait)
_shtab_ifserver_resume_option_strings=(-h --help --admin --config)
_shtab_ifserver_pool_option_strings=(-h --help --admin --config --reset --json)
_shtab_ifserver_completion_option_strings=(-h --help)
_shtab_ifserver_option_strings=(-h --help --version)

_shtab_ifserver_run___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run__u_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___unix_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___unix_socket_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___certfile_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___keyfile_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___root_path_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___access_log_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___app_dir_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_run___env_file_COMPGEN=_shtab_compgen_files
_shtab_ifserver_run___reload_dirs_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_run___reload_dir_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_serve___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve__u_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve___unix_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve___unix_socket_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve___certfile_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve___keyfile_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve___root_path_COMPGEN=_shtab_compgen_files
_shtab_ifserver_serve___access_log_COMPGEN=_shtab_compgen_files
_shtab_ifserver_worker___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_worker___app_dir_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_worker___env_file_COMPGEN=_shtab_compgen_files
_shtab_ifserver_worker___reload_dirs_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_worker___reload_dir_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_publish___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_check___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings__u_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___unix_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___unix_socket_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___certfile_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___keyfile_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___root_path_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___access_log_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___app_dir_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_settings___env_file_COMPGEN=_shtab_compgen_files
_shtab_ifserver_settings___reload_dirs_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_settings___reload_dir_COMPGEN=_shtab_compgen_dirs
_shtab_ifserver_status___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_top___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_pause___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_resume___config_COMPGEN=_shtab_compgen_files
_shtab_ifserver_pool___config_COMPGEN=_shtab_compgen_files

_shtab_ifserver_run___group_overflow_choices=(close skip)
_shtab_ifserver_run___underscores_in_headers_choices=(drop refuse allow)
_shtab_ifserver_run___access_log_format_choices=(common combined json)
_shtab_ifserver_run___interface_choices=(auto asgi wsgi)
_shtab_ifserver_run__v_choices=(0 1 2 3)
_shtab_ifserver_run___verbosity_choices=(0 1 2 3)
_shtab_ifserver_run___log_format_choices=(human json short)
_shtab_ifserver_run___log_to_choices=(stderr journal)
_shtab_ifserver_serve___group_overflow_choices=(close skip)
_shtab_ifserver_serve___underscores_in_headers_choices=(drop refuse allow)
_shtab_ifserver_serve___access_log_format_choices=(common combined json)
_shtab_ifserver_serve___placement_choices=(home-first spread)
_shtab_ifserver_serve__v_choices=(0 1 2 3)
_shtab_ifserver_serve___verbosity_choices=(0 1 2 3)
_shtab_ifserver_serve___log_format_choices=(human json short)
_shtab_ifserver_serve___log_to_choices=(stderr journal)
_shtab_ifserver_worker___placement_choices=(home-first spread)
_shtab_ifserver_worker___interface_choices=(auto asgi wsgi)
_shtab_ifserver_worker__v_choices=(0 1 2 3)
_shtab_ifserver_worker___verbosity_choices=(0 1 2 3)
_shtab_ifserver_worker___log_format_choices=(human json short)
_shtab_ifserver_worker___log_to_choices=(stderr journal)
_shtab_ifserver_publish___placement_choices=(home-first spread)
_shtab_ifserver_publish__v_choices=(0 1 2 3)
_shtab_ifserver_publish___verbosity_choices=(0 1 2 3)
_shtab_ifserver_publish___log_format_choices=(human json short)
_shtab_ifserver_publish___log_to_choices=(stderr journal)
_shtab_ifserver_check___placement_choices=(home-first spread)
_shtab_ifserver_check__v_choices=(0 1 2 3)
_shtab_ifserver_check___verbosity_choices=(0 1 2 3)
_shtab_ifserver_check___log_format_choices=(human json short)
_shtab_ifserver_check___log_to_choices=(stderr journal)
_shtab_ifserver_settings___group_overflow_choices=(close skip)
_shtab_ifserver_settings___underscores_in_headers_choices=(drop refuse allow)
_shtab_ifserver_settings___access_log_format_choices=(common combined json)
_shtab_ifserver_settings___placement_choices=(home-first spread)
_shtab_ifserver_settings___interface_choices=(auto asgi wsgi)
_shtab_ifserver_settings__v_choices=(0 1 2 3)
_shtab_ifserver_settings___verbosity_choices=(0 1 2 3)
_shtab_ifserver_settings___log_format_choices=(human json short)
_shtab_ifserver_settings___log_to_choices=(stderr journal)
_shtab_ifserver_completion_pos_0_choices=(bash zsh fish)
_shtab_ifserver_pos_0_choices=(run serve worker publish check settings status top pause resume pool completion)

_shtab_ifserver_run__h_nargs=0
_shtab_ifserver_run___help_nargs=0
_shtab_ifserver_run___help_all_nargs=0
_shtab_ifserver_run___no_websocket_compression_nargs=0
_shtab_ifserver_run___proxy_protocol_nargs=0
_shtab_ifserver_run___no_access_log_queries_nargs=0
_shtab_ifserver_run___no_request_id_nargs=0
_shtab_ifserver_run___server_timing_nargs=0
_shtab_ifserver_run___request_start_nargs=0
_shtab_ifserver_run___front_tracing_nargs=0
_shtab_ifserver_run___worker_tracing_nargs=0
_shtab_ifserver_run___tracing_nargs=0
_shtab_ifserver_run___factory_nargs=0
_shtab_ifserver_run___stream_uploads_nargs=0
_shtab_ifserver_run___reload_nargs=0
_shtab_ifserver_run___proxy_headers_nargs=0
_shtab_ifserver_run___no_server_name_nargs=0
_shtab_ifserver_serve__h_nargs=0
_shtab_ifserver_serve___help_nargs=0
_shtab_ifserver_serve___help_all_nargs=0
_shtab_ifserver_serve___no_websocket_compression_nargs=0
_shtab_ifserver_serve___proxy_protocol_nargs=0
_shtab_ifserver_serve___no_access_log_queries_nargs=0
_shtab_ifserver_serve___no_request_id_nargs=0
_shtab_ifserver_serve___server_timing_nargs=0
_shtab_ifserver_serve___request_start_nargs=0
_shtab_ifserver_serve___front_tracing_nargs=0
_shtab_ifserver_serve___tracing_nargs=0
_shtab_ifserver_serve___proxy_headers_nargs=0
_shtab_ifserver_serve___no_server_name_nargs=0
_shtab_ifserver_worker__h_nargs=0
_shtab_ifserver_worker___help_nargs=0
_shtab_ifserver_worker___help_all_nargs=0
_shtab_ifserver_worker___factory_nargs=0
_shtab_ifserver_worker___stream_uploads_nargs=0
_shtab_ifserver_worker___reload_nargs=0
_shtab_ifserver_worker___worker_tracing_nargs=0
_shtab_ifserver_worker___tracing_nargs=0
_shtab_ifserver_publish__h_nargs=0
_shtab_ifserver_publish___help_nargs=0
_shtab_ifserver_publish___help_all_nargs=0
_shtab_ifserver_publish___json_nargs=0
_shtab_ifserver_publish___bytes_nargs=0
_shtab_ifserver_check__h_nargs=0
_shtab_ifserver_check___help_nargs=0
_shtab_ifserver_check___help_all_nargs=0
_shtab_ifserver_check___json_nargs=0
_shtab_ifserver_settings__h_nargs=0
_shtab_ifserver_settings___help_nargs=0
_shtab_ifserver_settings___help_all_nargs=0
_shtab_ifserver_settings___json_nargs=0
_shtab_ifserver_settings___example_nargs=0
_shtab_ifserver_settings___no_websocket_compression_nargs=0
_shtab_ifserver_settings___proxy_protocol_nargs=0
_shtab_ifserver_settings___no_access_log_queries_nargs=0
_shtab_ifserver_settings___no_request_id_nargs=0
_shtab_ifserver_settings___server_timing_nargs=0
_shtab_ifserver_settings___request_start_nargs=0
_shtab_ifserver_settings___front_tracing_nargs=0
_shtab_ifserver_settings___worker_tracing_nargs=0
_shtab_ifserver_settings___tracing_nargs=0
_shtab_ifserver_settings___factory_nargs=0
_shtab_ifserver_settings___stream_uploads_nargs=0
_shtab_ifserver_settings___reload_nargs=0
_shtab_ifserver_settings___proxy_headers_nargs=0
_shtab_ifserver_settings___no_server_name_nargs=0
_shtab_ifserver_status__h_nargs=0
_shtab_ifserver_status___help_nargs=0
_shtab_ifserver_status___json_nargs=0
_shtab_ifserver_top__h_nargs=0
_shtab_ifserver_top___help_nargs=0
_shtab_ifserver_pause__h_nargs=0
_shtab_ifserver_pause___help_nargs=0
_shtab_ifserver_pause___wait_nargs=0
_shtab_ifserver_resume__h_nargs=0
_shtab_ifserver_resume___help_nargs=0
_shtab_ifserver_pool_pos_0_nargs='*'
_shtab_ifserver_pool__h_nargs=0
_shtab_ifserver_pool___help_nargs=0
_shtab_ifserver_pool___reset_nargs=0
_shtab_ifserver_pool___json_nargs=0
_shtab_ifserver_completion__h_nargs=0
_shtab_ifserver_completion___help_nargs=0
_shtab_ifserver_pos_0_nargs=A...
_shtab_ifserver__h_nargs=0
_shtab_ifserver___help_nargs=0
_shtab_ifserver___version_nargs=0


# $1=COMP_WORDS[1]
_shtab_compgen_files() {
  compgen -f -- $1  # files
}

# $1=COMP_WORDS[1]
_shtab_compgen_dirs() {
  compgen -d -- $1  # recurse into subdirs
}

# $1=COMP_WORDS[1]
_shtab_replace_nonword() {
  echo "${1//[^[:word:]]/_}"
}

# set default values (called for the initial parser & any subparsers)
_set_parser_defaults() {
  local subparsers_var="${prefix}_subparsers[@]"
  sub_parsers=${!subparsers_var-}

  local current_option_strings_var="${prefix}_option_strings[@]"
  current_option_strings=${!current_option_strings_var}

  completed_positional_actions=0

  _set_new_action "pos_$completed_positional_actions" true
}

# $1=action identifier
# $2=positional action (bool)
# set all identifiers for an action's parameters
_set_new_action() {
  current_action="${prefix}_$(_shtab_replace_nonword $1)"

  local current_action_compgen_var=${current_action}_COMPGEN
  current_action_compgen="${!current_action_compgen_var-}"

  local current_action_choices_var="${current_action}_choices[@]"
  current_action_choices="${!current_action_choices_var-}"

  local current_action_nargs_var="${current_action}_nargs"
  if [ -n "${!current_action_nargs_var-}" ]; then
    current_action_nargs="${!current_action_nargs_var}"
  else
    current_action_nargs=1
  fi

  current_action_args_start_index=$(( $word_index + 1 - $pos_only ))

  current_action_is_positional=$2
}

# Notes:
# `COMPREPLY`: what will be rendered after completion is triggered
# `completing_word`: currently typed word to generate completions for
# `${!var}`: evaluates the content of `var` and expand its content as a variable
#     hello="world"
#     x="hello"
#     ${!x} -> ${hello} -> "world"
_shtab_ifserver() {
  local completing_word="${COMP_WORDS[COMP_CWORD]}"
  local previous_word="${COMP_WORDS[COMP_CWORD-1]}"
  local completed_positional_actions
  local current_action
  local current_action_args_start_index
  local current_action_choices
  local current_action_compgen
  local current_action_is_positional
  local current_action_nargs
  local current_option_strings
  local sub_parsers
  COMPREPLY=()

  local prefix=_shtab_ifserver
  local word_index=0
  local pos_only=0 # "--" delimiter not encountered yet
  _set_parser_defaults
  word_index=1

  # determine what arguments are appropriate for the current state
  # of the arg parser
  while [ $word_index -ne $COMP_CWORD ]; do
    local this_word="${COMP_WORDS[$word_index]}"

    if [[ $pos_only = 1 || " $this_word " != " -- " ]]; then
      if [[ -n $sub_parsers && " ${sub_parsers[@]} " == *" $this_word "* ]]; then
        # valid subcommand: add it to the prefix & reset the current action
        prefix="${prefix}_$(_shtab_replace_nonword $this_word)"
        _set_parser_defaults
      fi

      if [[ " ${current_option_strings[@]} " == *" $this_word "* ]]; then
        # a new action should be acquired (due to recognised option string or
        # no more input expected from current action);
        # the next positional action can fill in here
        _set_new_action $this_word false
      fi

      if [[ "$current_action_nargs" != "*" ]] && \
         [[ "$current_action_nargs" != "+" ]] && \
         [[ "$current_action_nargs" != "?" ]] && \
         [[ "$current_action_nargs" != *"..." ]] && \
         (( $word_index + 1 - $current_action_args_start_index - $pos_only >= \
            $current_action_nargs )); then
        $current_action_is_positional && let "completed_positional_actions += 1"
        _set_new_action "pos_$completed_positional_actions" true
      fi
    else
      pos_only=1 # "--" delimiter encountered
    fi

    let "word_index+=1"
  done

  # Generate the completions

  COMPREPLY=()
  if [[ $pos_only = 0 && "$completing_word" == -* &&
        ( -z "$current_action_compgen" || "$current_action_is_positional" = true ) ]]; then
    # optional argument started: use option strings
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
      compgen -W "${current_option_strings[*]}" -- "$completing_word")
  elif [[ "$previous_word" =~ ^[0-9\&]*[\<\>]\>?$ ]]; then
    # handle redirection operators
    compopt -o filenames 2>/dev/null || : # bash>=4
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$completing_word")
  else
    # use choices & compgen
    local action_compgen_word="$completing_word"
    # handle tab-completing in the middle of a line (#248 <- #116)
    [[ -n "$current_action_compgen" && "$completing_word" == -* ]] && action_compgen_word=""
    [ -n "$current_action_compgen" ] && {
      [[ "$current_action_compgen" =~ _(file|dir|glob|FILE|DIR|GLOB)|File|Dir|Glob ]] &&
        compopt -o filenames 2>/dev/null || : # bash>=4
      while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
        "$current_action_compgen" "$action_compgen_word")
    }
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(
      compgen -W "${current_action_choices[*]}" -- "$completing_word")
  fi

  if [[ ${#COMPREPLY[@]} = 0 ]]; then
    # native fallback matches are not necessarily filenames (e.g. variables)
    compopt +o filenames 2>/dev/null || : # bash>=4
  fi

  return 0
}

complete -o bashdefault -F _shtab_ifserver ifserver