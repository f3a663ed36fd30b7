/* script_calls.h - Redis commands of scripts. bridge.h has what workers call. */
#ifndef RUN_SCRIPT_CALLS_H
#define RUN_SCRIPT_CALLS_H

void script_calls_init(void); /* at load */

#endif
