/* bindings.h - bindings: a model or script that runs whenever keys change (AI.BIND).
 *
 * definition.c parses and holds a binding, registry.c finds those of a key, pending.c notes which keys have changed,
 * work.c runs what is pending, hashes.c and streams.c read inputs and write results, saved.c keeps all of it in RDB
 * files. Main thread only, but for the BGSAVE child, which saves. */
#pragma once

#include "commands/hash_set.h"
#include "redis/event_loop.h"
#include "run/run.h"

/* What one FIELDS says: an input of the model, whose 0th dimension is a row for each key or entry. */
typedef struct BoundInput {
    RedisModuleString **fields;
    int nfields;
    int is_bytes; /* the one field holds a row's elements as bytes, not as text */
    int dtype, ndim;
    int64_t *shape;              /* ndim dimensions; the 0th is set for each run */
    int64_t length;              /* elements of a row */
    RedisModuleString *fallback; /* DEFAULT; NULL: none */
    char element[8];             /* the fallback as a number */
} BoundInput;

typedef struct Pending Pending;

#define MAX_UNDER_WAY 2 /* batches of a binding: one runs, one is next */

typedef struct Binding {
    RedisModuleString *name;
    RedisModuleString **words; /* its definition: what follows AI.BIND. The strings below are among them */
    int nwords;
    int db, is_stream;
    int is_exact; /* KEYS instead of PREFIX */
    RedisModuleString **prefixes;
    int nprefixes;
    BoundInput *inputs;
    int ninputs;
    int kind;                                                 /* KIND_...: what it runs */
    RedisModuleString *runnable, *function, *user;            /* keys and names; function NULL: a model */
    HashField *outputs;                                       /* the fields to set, in the order of the run's outputs */
    int noutputs;                                             /* of the run */
    int nset;                                                 /* outputs that become fields: all or none */
    RedisModuleString *vector_set, *stream, *version, *error; /* NULL: none */
    long long maxlen;                                         /* of the stream; 0: any */

    int refs;       /* the registry's, and one for each batch under way */
    int is_removed; /* results are dropped */
    struct Binding *next;

    RedisModuleDict *pending;             /* by key: its Pending */
    Pending *first, *last;                /* those that no batch has, oldest first */
    int64_t npending;                     /* all */
    struct Batch *batches[MAX_UNDER_WAY]; /* NULL where none is under way */
    int under_way;                        /* batches */
    int alone;                            /* so many of the first run alone: as a batch they have failed */
    int alone_failed;                     /* whether one of those has failed, too */
    struct Batch *reading;                /* the one of them that is not yet submitted; NULL: none */
    uint64_t unbatchable;                 /* id of the runnable that runs only single rows; 0: none */
    int64_t unbatchable_until;            /* ns */
    int64_t paused_until;                 /* ns: the server refuses writes, or there is nothing to run */
    int is_filling;                       /* AI.BINDRUN goes over all keys */
    RedisModuleScanCursor *cursor;        /* of that, once begun */
    int64_t filled, to_fill;              /* keys that it has seen, and those of the database when it began */
    int64_t runs, rows, errors;
    int64_t logged; /* ns, the last line about an error */
    char *last_error;
    RedisModuleString *last_error_key;
} Binding;

/* A key that has changed since its newest result was written. */
struct Pending {
    RedisModuleString *key;
    int64_t since;            /* ns, the oldest change without a result */
    int64_t changed;          /* ns, where has_changed is set: the first change since the batch has read it */
    RedisModuleStreamID from; /* of a stream: the oldest entry that is new */
    int is_running;           /* a batch has it */
    int has_changed;          /* since the batch has read it */
    int is_gone;              /* it was deleted or replaced since a batch last took it */
    Pending *previous, *next; /* where is_running is not set */
};

/* ---- definition.c ------------------------------------------------------------------------------------------------ */

/* Parses the words behind AI.BIND, and holds them. NULL after replying an error; ctx NULL: replies none. */
Binding *binding_parse(RedisModuleCtx *ctx, RedisModuleString **words, int count, int db, RedisModuleString *user);
void binding_unref(Binding *binding);

/* ---- registry.c -------------------------------------------------------------------------------------------------- */

Binding *bindings_first(void);
Binding *bindings_find(const RedisModuleString *name);
void bindings_add(Binding *binding); /* takes the reference over */
void bindings_remove(Binding *binding);
void bindings_replace(Binding *first); /* all, by a list */

/* Calls back for each binding of the key in this database. */
typedef void (*BindingVisit)(Binding *binding, RedisModuleString *key, void *data);
void bindings_of_key(RedisModuleCtx *ctx, RedisModuleString *key, BindingVisit visit, void *data);

/* ---- pending.c --------------------------------------------------------------------------------------------------- */

/* Has the server tell of the changes that this binding needs; servers without bindings pay nothing. */
void pending_watch(RedisModuleCtx *ctx, const Binding *binding);

/* While it is set, what is written is no change: results make no binding run. */
void pending_set_quiet(int is_quiet);

/* Adds the key, or notes that it has changed once more. */
Pending *pending_add(Binding *binding, RedisModuleString *key);
Pending *pending_find(const Binding *binding, const RedisModuleString *key);
void pending_take(Binding *binding, Pending *pending);                    /* for a batch */
void pending_give_back(Binding *binding, Pending *pending, int is_first); /* it stays to be run */
void pending_free(Binding *binding, Pending *pending);                    /* it is done */
void pending_clear(Binding *binding);                                     /* all that no batch has */
int pending_free_cleared(void); /* in slices, for a million keys take a second; whether there are more */

/* ---- rows.c ------------------------------------------------------------------------------------------------------ */

#define ROWS_BYTES (1 << 20) /* of a run of more than one row: reading more would make clients wait */

/* The inputs of a batch while its rows are read. */
typedef struct Rows {
    const Binding *binding;
    struct RowsOf *inputs;
    int capacity, count;
    uint64_t bytes; /* read */
} Rows;

/* The value of a field of the row that is read, a reference for the caller; NULL: it has none. */
typedef RedisModuleString *(*FieldOf)(void *data, const RedisModuleString *field);

int rows_begin(Rows *rows, const Binding *binding, int capacity); /* -1: no memory */
/* NULL, or why the row is not added, which the caller frees. */
char *rows_add(Rows *rows, FieldOf field, void *data);
int rows_are_full(const Rows *rows);
int rows_finish(const Rows *rows, Tensor **tensors); /* makes the tensors, one for each input; -1: not all, no memory */
void rows_free(Rows *rows);

/* ---- work.c ------------------------------------------------------------------------------------------------------ */

/* What runs at once: the keys of hashes, or entries of one stream. */
typedef struct Batch {
    Task task; /* which writes the results; first, for it is the batch */
    Binding *binding;
    Rows rows_read;      /* until it is submitted */
    Run *run;            /* once it has ended */
    const char *failure; /* why it gave nothing, for the one row that it had; NULL: it did */
    uint64_t runnable;   /* its id */
    char *tag;           /* its tag */
    size_t tag_size;
    int is_alone;
    int rows;
    Pending **pending;            /* by row; of a stream, the one */
    int npending;                 /* that have been taken, and are not written */
    RedisModuleStreamID *ids;     /* of a stream, by entry, like the next */
    RedisModuleStreamID position; /* of the last entry before them */
    char **errors;                /* why the entry is no row; NULL: it is the next row */
    int nentries;
    int written, row; /* of the entries, and the row of the next */
} Batch;

int work_init(RedisModuleCtx *ctx);
void work_wake(void); /* something is pending, or may go on */

/* Counts an error, and logs it once a kind. Takes the text over. The other does not count it, but lets the binding
 * rest for a moment: it goes on with the same when that is over. */
void work_note_error(Binding *binding, RedisModuleString *key, char *error);
void work_wait(Binding *binding, RedisModuleString *key, char *error);

/* The value of a row of output number `output`, in this form. FORM_OWN: a number or text, or of several elements their
 * bytes. The caller frees it. NULL with *error set, which the caller frees, too. */
RedisModuleString *work_value(const Run *run, const Batch *batch, int output, int row, int form, char **error);

/* Calls a command that writes, as the binding's user. Returns its error, which the caller frees, or NULL. */
char *work_call(RedisModuleCtx *ctx, const char *command, RedisModuleString **argv, size_t argc);

/* Whether the server refuses writes just now, so that the same may succeed later. */
int work_is_for_now(const char *error);

/* Tells replicas and the AOF that these keys are not pending any more; none: that AI.BINDRUN has seen all keys. */
void work_replicate_done(RedisModuleCtx *ctx, const Binding *binding, RedisModuleString **keys, size_t count);

/* Read: what is pending into rows, and take it for the batch; report and free what cannot be run. Write: what the run
 * gave. Both go on until work_has_time() says no, do a little in any case, and return whether they are done. Both with
 * the binding's user in the context (hashes.c, streams.c). */
int hashes_read(RedisModuleCtx *ctx, RedisModuleUser *user, Batch *batch);
int hashes_write(RedisModuleCtx *ctx, Batch *batch);
int streams_read(RedisModuleCtx *ctx, RedisModuleUser *user, Batch *batch);
int streams_write(RedisModuleCtx *ctx, Batch *batch);
int work_has_time(void); /* in this iteration; only what this file's functions call may ask */

/* The batch that is still read stays pending. */
void work_drop_reading(Binding *binding);

/* ---- saved.c, commands.c ----------------------------------------------------------------------------------------- */

int saved_init(RedisModuleCtx *ctx);
int bindings_are_saved(void); /* by this server, and with these options */
int bindings_init(RedisModuleCtx *ctx);
