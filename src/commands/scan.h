/* scan.h - AI._MODELSCAN and AI._SCRIPTSCAN. Main thread only. */
#ifndef COMMANDS_SCAN_H
#define COMMANDS_SCAN_H

#include "redis/api.h"

/* Replies keys and tags of all models or scripts in the database: the values of this type. */
int scan_runnables(RedisModuleCtx *ctx, RedisModuleType *type);

#endif
