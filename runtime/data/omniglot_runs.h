/* omniglot_runs.h - Omniglot's one-shot runs: the 20 episodes that everybody is judged on.
 *
 * The drawings themselves (images-105x105-idx3-ubyte.gz, labels-idx1-short, classes.txt) are an idx
 * set of images.h; classes are called alphabet/character, so that hn_class_groups_make gives the
 * alphabets.
 *
 * folder     all_runs.zip of brendenlake/omniglot, unpacked: folders run01, run02, ... without a
 *            gap, each with
 *              class_labels.txt  a line for each test image: "run01/test/item07.png
 *                                run01/training/class03.png" (the paths of the two files)
 *              training/, test/  the PNG files of those lines
 *            A .zip file itself is refused: unpack it.
 * images     a set: of each run the training images in the order of their names, then the test
 *            images in the order of class_labels.txt. 255 is ink, 0 is paper, as in the drawings
 *            (the files have it the other way round). Classes are called run01/class01.
 * episodes   number r (run r + 1): every training image is one class with one support image
 *            (20-way 1-shot), every test image a query (20).
 *
 * Errors     name the file and the line. HN_ERR_ARG: a .zip, no run01, image_size or channels;
 *            HN_ERR_FORMAT: a line of another form, an image of another run, one named twice or by
 *            no line, a gap between runs; HN_ERR_SHAPE: images of different sizes; HN_ERR_IO;
 *            HN_ERR_UNSUPPORTED: other kinds of images; HN_ERR_MEMORY
 */
#ifndef HN_OMNIGLOT_RUNS_H
#define HN_OMNIGLOT_RUNS_H
#include <stdint.h>

#include "runtime/base/status.h"
#include "runtime/data/episodes.h"
#include "runtime/data/images.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hn_omniglot_runs hn_omniglot_runs;

/* image_size, channels   as in hn_image_options; 0: as they are, 1 */
HN_NODISCARD hn_status hn_omniglot_runs_open(const char *folder, int64_t image_size, int channels,
                                             hn_omniglot_runs **out);
void hn_omniglot_runs_free(hn_omniglot_runs *r); /* accepts NULL */

int64_t hn_omniglot_runs_count(const hn_omniglot_runs *r);
const hn_image_set *hn_omniglot_runs_images(const hn_omniglot_runs *r); /* lives as long as r */
/* The largest of all runs. */
hn_episode_sizes hn_omniglot_runs_sizes(const hn_omniglot_runs *r);
/* number   0 .. count - 1
 * out      made with sizes not below hn_omniglot_runs_sizes */
HN_NODISCARD hn_status hn_omniglot_runs_draw(const hn_omniglot_runs *r, int64_t number,
                                             hn_episode *out);

#ifdef __cplusplus
}
#endif
#endif
