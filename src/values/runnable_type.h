/* runnable_type.h - the parts that the datatypes of models and scripts share: device, tag, references, statistics. */
#pragma once

#include "values/rdb.h"
#include "values/runnable.h"

/* string device, rstring tag (a string in version 0). Returns what is wrong, or NULL. */
const char *runnable_load(RedisModuleIO *io, Runnable *runnable, int encver);
void runnable_save(RedisModuleIO *io, const Runnable *runnable);

/* What rdb_load returns: the value, which runnable_compile() has got, so that a database with large models is there as
 * soon as it is read. Or NULL after logging the error. */
void *runnable_loaded(RedisModuleIO *io, Runnable *runnable, const char *type, const char *error);

size_t runnable_memory(const Runnable *runnable);
void runnable_digest(RedisModuleDigest *digest, const Runnable *runnable);

/* Moves the runnable and what both kinds have, and returns it. NULL: it must stay, for others refer to it. */
void *runnable_defrag(RedisModuleDefragCtx *ctx, Runnable *runnable);

void names_defrag(RedisModuleDefragCtx *ctx, Names *names);

/* The datatype with the callbacks that do not depend on the kind. NULL: the server refused it. */
RedisModuleType *runnable_type_register(RedisModuleCtx *ctx, const char *name, RedisModuleTypeMethods methods);
