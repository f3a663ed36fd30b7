/* script.h - the script value. The struct is in bridge.h, for Python reads it too; what it shares with models is
 * in values/runnable.h. */
#ifndef VALUES_SCRIPT_H
#define VALUES_SCRIPT_H

#include "bridge.h"
#include "redis/api.h"
#include "values/runnable.h"

Script *script_new(void); /* one reference, the caller's; fields are filled in before it is shared */

extern RedisModuleType *ScriptType;
int script_type_register(RedisModuleCtx *ctx);

#endif
