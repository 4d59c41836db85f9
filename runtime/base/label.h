/* label.h - the label that takes no part in a loss, as in PyTorch. */
#ifndef HN_LABEL_H
#define HN_LABEL_H

enum { HN_LABEL_IGNORED = -100 };

#endif
