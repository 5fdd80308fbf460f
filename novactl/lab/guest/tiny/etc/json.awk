# Flattens one JSON document into lines "path<TAB>value": keys joined by dots, array items numbered from 0.
{ text = text $0 "\n" }
END { advance(); value("") }

function advance() {
    if (!match(text, /"([^"\\]|\\.)*"|[][{}:,]|[^][{}:," \t\r\n]+/)) exit 1
    token = substr(text, RSTART, RLENGTH)
    text = substr(text, RSTART + RLENGTH)
}

function plain(quoted) {
    if (quoted !~ /^"/) return quoted
    quoted = substr(quoted, 2, length(quoted) - 2)
    gsub(/\\[nrt]/, " ", quoted)
    gsub(/\\/, "", quoted)
    sub(/ +$/, "", quoted)
    return quoted
}

function value(path,    i, key) {
    if (token == "{") {
        for (advance(); token != "}"; advance()) {
            if (token == ",") advance()
            key = plain(token); advance(); advance()
            value(path key ".")
        }
    } else if (token == "[") {
        i = 0
        for (advance(); token != "]"; advance()) {
            if (token == ",") advance()
            value(path i++ ".")
        }
    } else print substr(path, 1, length(path) - 1) "\t" plain(token)
}
