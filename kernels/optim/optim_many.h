/* optim_many.h - how many ranges a launch of an optimizer may update. */
#ifndef HN_OPTIM_MANY_H
#define HN_OPTIM_MANY_H

enum { HN_OPTIM_MANY = 4 };

#endif
