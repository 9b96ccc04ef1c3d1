#!/bin/sh
# Trains softmax regression on handwritten digits with a shell and awk, for machines without Python.
# It takes --lr, --epochs, --seed and --data like train.py and prints the same kinds of lines.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
lr=0.1 epochs=12 seed=0 data=$here/digits.csv

while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || { echo "$0: $1 needs a value" >&2; exit 2; }
    case $1 in
        --lr) lr=$2 ;;
        --epochs) epochs=$2 ;;
        --seed) seed=$2 ;;
        --data) data=$2 ;;
        *) echo "$0: unknown option $1 (known: --lr --epochs --seed --data)" >&2; exit 2 ;;
    esac
    shift 2
done
[ -r "$data" ] || { echo "$0: cannot read $data" >&2; exit 1; }

# The data comes by redirection, so that a path with `=` in it is not taken for an assignment.
exec awk -F, -v lr="$lr" -v epochs="$epochs" -v seed="$seed" '
# A generator of our own (Lehmer, Park and Miller 1988): the same numbers from every awk.
function chance(below) {
    state = (state * 16807) % 2147483647
    return int(state / 2147483647 * below)
}

function shuffle(from, to,    i, j, swap) {
    for (i = to; i > from; i--) {
        j = from + chance(i - from + 1)
        swap = order[i]; order[i] = order[j]; order[j] = swap
    }
}

# Fills probability[] for one row and returns the most probable class.
function forward(row,    class, pixel, top, total, best) {
    for (class = 0; class < 10; class++) {
        total = weight[class, 65]
        for (pixel = 1; pixel <= 64; pixel++)
            if (image[row, pixel]) total += weight[class, pixel] * image[row, pixel]
        probability[class] = total
        if (class == 0 || total > top) { top = total; best = class }
    }
    total = 0
    for (class = 0; class < 10; class++)
        total += probability[class] = exp(probability[class] - top)
    for (class = 0; class < 10; class++)
        probability[class] /= total
    return best
}

function learn(row,    class, pixel, step) {
    for (class = 0; class < 10; class++) {
        step = lr * (probability[class] - (class == label[row]))
        for (pixel = 1; pixel <= 64; pixel++)
            if (image[row, pixel]) weight[class, pixel] -= step * image[row, pixel]
        weight[class, 65] -= step
    }
}

{
    for (pixel = 1; pixel <= 64; pixel++) image[NR, pixel] = $pixel / 16
    label[NR] = $65
    order[NR] = NR
}

END {
    state = (seed + 1) * 7919 % 2147483646 + 1
    shuffle(1, NR)
    train = NR - int(NR * 0.2)
    printf "digits: %d training rows, %d test rows, lr %s, seed %s\n", train, NR - train, lr, seed
    fflush()
    for (epoch = 1; epoch <= epochs; epoch++) {
        shuffle(1, train)
        loss = right = 0
        for (i = 1; i <= train; i++) {
            row = order[i]
            right += forward(row) == label[row]
            loss -= log(probability[label[row]] + 1e-12)
            learn(row)
        }
        printf "metric: loss=%.6f accuracy=%.4f step=%d\n", loss / train, right / train, epoch
        fflush()
    }
    right = 0
    for (i = train + 1; i <= NR; i++) right += forward(order[i]) == label[order[i]]
    printf "test accuracy %.4f\n", right / (NR - train)
}' < "$data"
