/** `neva completion SHELL`: a script that asks `neva __complete` at every Tab. */
import { Argument, type Command } from 'commander';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

export function define(command: Command): void {
  command
    .addArgument(new Argument('<shell>', 'whose script').choices(SHELLS))
    .addHelpText(
      'after',
      `
To have it in every new shell:
  bash   echo 'source <(neva completion bash)' >> ~/.bashrc
  zsh    echo 'source <(neva completion zsh)' >> ~/.zshrc      (after compinit)
  fish   neva completion fish > ~/.config/fish/completions/neva.fish`,
    )
    .action((shell: (typeof SHELLS)[number]) => void process.stdout.write(scripts[shell]));
}

/** Readline ends words at = and : too, so the line is cut at blanks here, and what readline keeps is taken off again. */
const bash = `_neva() {
  local line="\${COMP_LINE:0:COMP_POINT}" words current kept candidate
  read -ra words <<< "$line"
  [[ $line == *[[:blank:]] ]] && words+=('')
  current="\${words[\${#words[@]}-1]}"
  kept="\${current%"\${current##*[=:]}"}"
  [[ $COMP_WORDBREAKS == *=* ]] || kept=''
  COMPREPLY=()
  while IFS= read -r candidate; do
    case $candidate in
      ':files '*)
        compopt -o filenames +o nospace 2> /dev/null
        local start="\${candidate#:files }"
        while IFS= read -r candidate; do
          candidate="$start$candidate"
          COMPREPLY+=("\${candidate#"$kept"}")
        done < <(compgen -f -- "\${current#"$start"}")
        ;;
      *[=./]) COMPREPLY+=("\${candidate#"$kept"}") ;;
      ?*) COMPREPLY+=("\${candidate#"$kept"} ") ;;
    esac
  done < <(neva __complete -- "\${words[@]:1}" 2> /dev/null)
}
complete -o nospace -F _neva neva
`;

const zsh = `#compdef neva
_neva() {
  local candidate start
  local -a open closed
  for candidate in "\${(@f)$(neva __complete -- "\${(@)words[2,CURRENT]}" 2> /dev/null)}"; do
    case $candidate in
      ':files '*)
        start="\${candidate#:files }"
        [[ -n $start ]] && compset -P "*="
        _files
        return
        ;;
      *[=./]) open+=("$candidate") ;;
      ?*) closed+=("$candidate") ;;
    esac
  done
  (( $#open )) && compadd -S '' -- "\${open[@]}"
  (( $#closed )) && compadd -- "\${closed[@]}"
}
# Read by \`source\`, or found as a file named _neva on fpath and then called at once.
if [[ $funcstack[1] == _neva ]]; then _neva; else compdef _neva neva; fi
`;

const fish = `function __neva_complete
  set -l words (commandline -opc)
  set -l current (commandline -ct)
  for candidate in (neva __complete -- $words[2..-1] "$current" 2> /dev/null)
    if string match -q ':files *' -- $candidate
      set -l start (string replace ':files ' '' -- $candidate)
      set -l length (string length -- "$start")
      for file in (__fish_complete_path (string sub -s (math $length + 1) -- "$current"))
        echo "$start$file"
      end
    else
      echo $candidate
    end
  end
end
complete -c neva -f -a '(__neva_complete)'
`;

const scripts = { bash, zsh, fish };
