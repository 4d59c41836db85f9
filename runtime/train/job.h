/* job.h - what a run computes: parameters, the fields of a micro-batch, forward passes. The engine
 * (engine.h) turns it into steps and knows nothing else of a model; a kind of model is a file
 * <kind>_job.c that fills in an hn_job.
 *
 * Random operations are keyed by row: the rows of a micro-batch follow those of the one before it
 * in the same optimizer step. */
#ifndef HN_JOB_H
#define HN_JOB_H
#include "runtime/adapt/params.h"
#include "runtime/graph/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { HN_JOB_FIELDS = 6 };

/* One input of a micro-batch that the host fills: dense, without gaps. */
typedef struct {
    const char *name;
    hn_type type;
} hn_field;

/* What a forward pass is recorded with. */
typedef struct {
    const hn_params *params;
    hn_tensor *const *in; /* the fields of a micro-batch; NULL in a probe */
    bool gpu;
    int64_t recompute; /* so many layers, the first ones, run again in backward */
} hn_job_pass;

/* Where it adds to: [1] each, fp32. */
typedef struct {
    hn_tensor *loss, *count; /* summed loss; rows (tokens, images) that took part */
    hn_tensor *hits;         /* of those, the ones that came out right; NULL: not asked for */
} hn_job_sums;

typedef struct hn_job hn_job;

/* Callbacks may be NULL where nothing is to be done. */
struct hn_job {
    int64_t rows;   /* of a micro-batch (tokens, images); 0: there is none */
    int64_t layers; /* that can run again in backward */
    bool hits;      /* evaluation counts what comes out right, too */
    int n_fields;
    hn_field field[HN_JOB_FIELDS];

    /* Every parameter, in file order. */
    hn_status (*declare)(const hn_job *j, hn_params *p);
    /* Tensors that all graphs share; called anew for every plan. */
    hn_status (*tables)(hn_job *j, hn_program *p);
    /* What they hold, once memory is there. */
    hn_status (*fill)(const hn_job *j);
    /* The forward pass up to the sums. */
    hn_status (*loss)(hn_job *j, const hn_job_pass *pass, hn_graph *g, const hn_job_sums *sums);
    /* A forward pass on inputs of its own, to look at what comes out. NULL: there is none. */
    hn_status (*probe)(hn_job *j, const hn_job_pass *pass, hn_graph *g);
    /* Writes a micro-batch in which no row counts. */
    void (*empty)(const hn_job *j, void *const *field);
    /* Frees what tables has made besides tensors: the program is gone, or about to be. */
    void (*release)(hn_job *j);
};

#ifdef __cplusplus
}
#endif
#endif
