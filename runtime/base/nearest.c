#include "runtime/base/nearest.h"

#include <stdbool.h>
#include <string.h>

static int smaller(int a, int b) { return a < b ? a : b; }

static bool same(char a, char b)
{
    return a == b || ((a == '-' || a == '_') && (b == '-' || b == '_'));
}

int hn_edit_distance(const char *a, const char *b)
{
    const size_t len_a = strlen(a), len_b = strlen(b);
    if (len_a > HN_NEAREST_MAX || len_b > HN_NEAREST_MAX) return HN_NEAREST_MAX + 1;
    int rows[3][HN_NEAREST_MAX + 1]; /* two back, one back, current */
    int *back2 = rows[0], *back = rows[1], *row = rows[2];
    for (size_t j = 0; j <= len_b; j++) back2[j] = back[j] = (int)j;
    for (size_t i = 1; i <= len_a; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= len_b; j++) {
            int best = smaller(back[j], row[j - 1]) + 1;
            best = smaller(best, back[j - 1] + !same(a[i - 1], b[j - 1]));
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                best = smaller(best, back2[j - 2] + 1);
            row[j] = best;
        }
        int *const oldest = back2;
        back2 = back;
        back = row;
        row = oldest;
    }
    return back[len_b];
}

const char *hn_nearest(const char *word, const char *const *names, size_t n)
{
    const int third = (int)(strlen(word) / 3);
    int limit = third < 1 ? 1 : smaller(third, 4);
    const char *nearest = NULL;
    for (size_t i = 0; i < n; i++) {
        if (names[i] == NULL) continue;
        const char *const dot = strrchr(names[i], '.');
        int distance = hn_edit_distance(word, names[i]);
        if (dot != NULL) distance = smaller(distance, hn_edit_distance(word, dot + 1));
        if (distance < limit || (distance == limit && nearest == NULL)) {
            limit = distance;
            nearest = names[i];
        }
    }
    return nearest;
}
