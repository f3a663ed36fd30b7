/* script.h - the script value. The struct is in bridge.h, for Python reads it too; what it shares with models is in
 * runnable.h. */
#ifndef SCRIPT_H
#define SCRIPT_H

#include "bridge.h"
#include "redis_api.h"
#include "runnable.h"

Script *script_new(void);            /* one reference, the caller's; fields are filled in before it is shared */
void script_destroy(Script *script); /* for runnable_destroy() */

extern RedisModuleType *ScriptType;
int script_type_register(RedisModuleCtx *ctx);
int script_commands_register(RedisModuleCtx *ctx);

#endif
