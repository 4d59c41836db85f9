/* ranks.h - which rank of which job this process is, from flags and the launcher's environment.
 *
 * The first source that knows it wins:
 *   flags      the texts of hn_ranks_request; for each that is not given, the HONE_ variable of the
 *              same meaning, which is how hn_launch (launch.h) tells the ranks it forks:
 *              HONE_RANK, HONE_RANKS, HONE_LOCAL_RANK, HONE_LOCAL_RANKS, HONE_JOB, HONE_LISTEN_FD
 *   torchrun   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT,
 *              TORCHELASTIC_RUN_ID, TORCHELASTIC_RESTART_COUNT, TORCHELASTIC_USE_AGENT_STORE
 *   SLURM      SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_NODEID,
 * SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE, SLURM_JOB_ID, SLURM_STEP_ID, SLURM_RESTART_COUNT,
 *              SLURMD_NODENAME; older spellings where these are missing
 *   Open MPI   OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE, PMIX_NAMESPACE
 *   PMI        PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS, PMI_JOBID (MPICH's Hydra,
 *              Intel MPI)
 * and without any the process is alone. What a source says in part, that contradicts itself or is
 * no number is an error: nobody trains alone because a variable was misspelt. A variable that is
 * empty is not set.
 *
 * A shell of salloc or a script of sbatch is one process though SLURM_NTASKS is more: SLURM counts
 * only inside a step of srun with several tasks. mpirun starts its daemons as such a step: inside
 * Open MPI, or where PMI_RANK and PMI_SIZE are not the step's, SLURM's variables are the daemon's
 * and do not count.
 *
 * Where rank 0 listens. --rendezvous or HONE_RENDEZVOUS, whatever the launcher, as
 *   tcp:HOST:PORT  tcp:[IPV6]:PORT  file:PATH
 * else
 *   torchrun   MASTER_ADDR, MASTER_PORT; MASTER_PORT + 1 when torchrun's agent listens on it
 *   SLURM      first host of the step, port 20000 + (job id + 7919 * step id) mod 20000
 *   Open MPI   all ranks on one host: a file in the job's private folder (PMIX_SERVER_TMPDIR);
 *              several hosts: it gives no address, an error says so
 *   PMI        an error says that it gives no address
 * Ranks that are all on one host meet on the loopback interface.
 *
 * Nothing here opens a file or a socket, or changes a variable; NCCL_* are not even read.
 */
#ifndef HN_RANKS_H
#define HN_RANKS_H
#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    HN_RANKS_MAX = 4096,     /* ranks of a job at most */
    HN_RANKS_HOST_TEXT = 64, /* bytes with the final zero, as the others */
    HN_RANKS_ADDRESS_TEXT = 272,
    HN_RANKS_FILE_TEXT = 1024,
    HN_RANKS_JOB_TEXT = 256,
    HN_RANKS_SECRET_TEXT = 256,
    HN_RANKS_TEXT = 512
};

/* clang-format off */
#define HN_LAUNCHER_LIST(X)        \
    X(NONE,     "single process")  \
    X(FLAGS,    "flags")           \
    X(TORCHRUN, "torchrun")        \
    X(SLURM,    "SLURM")           \
    X(OPEN_MPI, "Open MPI")        \
    X(PMI,      "PMI")

typedef enum {
#define X(name, text) HN_LAUNCHER_##name,
    HN_LAUNCHER_LIST(X)
#undef X
    HN_LAUNCHERS
} hn_launcher;
/* clang-format on */

const char *hn_launcher_name(hn_launcher launcher);

/* What the user typed; NULL or "" where nothing. local_rank counts only beside rank and size:
 * torchrun's predecessor adds a flag of that name, which is to be ignored. */
typedef struct {
    const char *rank, *size;             /* --job-rank, --job-size */
    const char *local_rank, *local_size; /* --local-rank, --local-size */
    const char *rendezvous;              /* --rendezvous */
} hn_ranks_request;

typedef struct {
    hn_launcher launcher;       /* only with NONE may a program fork ranks of its own (launch.h) */
    int rank, size;             /* 0 <= rank < size <= HN_RANKS_MAX */
    int local_rank, local_size; /* on this host; local_size 0: not known */
    int restarts;               /* how often the launcher has started the job anew */
    bool local;                 /* all ranks are on this host and meet on its loopback interface */

    /* With size > 1 one of the two, "" the other; both "" for one rank. */
    char address[HN_RANKS_ADDRESS_TEXT]; /* "HOST:PORT" or "[IPV6]:PORT" of rank 0 */
    char file[HN_RANKS_FILE_TEXT];       /* where rank 0 publishes its address */
    int listen_fd;                       /* rank 0: a socket that listens already; 0: none */

    char job[HN_RANKS_JOB_TEXT]; /* the same on all ranks, another for every start; "": one rank */
    char secret[HN_RANKS_SECRET_TEXT]; /* HONE_RENDEZVOUS_SECRET; "": none */
    char host[HN_RANKS_HOST_TEXT];     /* what the launcher calls this host; "": it does not say */
} hn_ranks;

/* An environment: the value of a variable or NULL, valid until the next call. */
typedef const char *hn_ranks_lookup(void *context, const char *name);

/* request  NULL: no flags
 * lookup   NULL: getenv; context is handed to it
 * out      changed only on success
 * Errors   HN_ERR_ARG naming flag or variable, its value, and what it has to be */
HN_NODISCARD hn_status hn_ranks_find(const hn_ranks_request *request, hn_ranks_lookup *lookup,
                                     void *context, hn_ranks *out);

/* The device of a rank: the only one where the launcher shows each task its own, else
 * number local_rank.
 * visible  devices that this process sees, > 0
 * Errors   HN_ERR_ARG: fewer devices than ranks on this host */
HN_NODISCARD hn_status hn_ranks_device(const hn_ranks *r, int visible, int *index);

/* "rank 3 of 8 (3 of 4 on this host), SLURM job 4711.0, address gnode7:24711" on one line. */
void hn_ranks_text(const hn_ranks *r, char out[HN_RANKS_TEXT]);

/* Takes the words --local-rank=N and --local_rank=N out of argv[1..*argc) and ends it with a NULL,
 * unless --job-rank is among them: before a program looks for its verb. */
void hn_ranks_drop_local(int *argc, char **argv);

#ifdef __cplusplus
}
#endif
#endif
