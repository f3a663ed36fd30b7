/* rdb.h - reading and writing the pieces that the saved layouts of the three types share.
 *
 * Loading runs on the main thread, saving in the BGSAVE child too: plain memory only, no locks. Whatever is read is
 * hostile until checked: every helper here returns an error instead of trusting a length or a count. */
#ifndef VALUES_RDB_H
#define VALUES_RDB_H

#include "bridge.h"
#include "redis/api.h"

#define RDB_ENCODING_VERSION 4

/* What MEMORY USAGE leaves out for values of modules: Redis's object, and what ties it to its module. */
#define KEY_OVERHEAD 32

/* Says in the log which key could not be loaded and why; returns NULL, what rdb_load must return. */
void *rdb_corrupt(RedisModuleIO *io, const char *type, const char *reason);

/* A C string saved with its NUL: ours, to be freed with RedisModule_Free; NULL when it is not one. */
char *rdb_load_text(RedisModuleIO *io);
void rdb_save_text(RedisModuleIO *io, const char *text);

/* Bytes saved without a NUL; the copy returned has one behind it. NULL on an I/O error. */
char *rdb_load_bytes(RedisModuleIO *io, uint64_t *size);

/* A counted list of C strings. Returns -1 when it is broken; names is then empty. */
int rdb_load_names(RedisModuleIO *io, Names *names);
void rdb_save_names(RedisModuleIO *io, const Names *names);

#endif
