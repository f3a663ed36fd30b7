/* script_calls.h - calls of scripts whose worker is in another process (isolation/). bridge.h has those of this one. */
#pragma once

#include "bridge.h"
#include "run/state.h"

/* In an engine process, the server performs the calls. The functions are those of bridge.h. */
typedef struct CallsElsewhere {
    Reply *(*call)(Op *op, const Bytes *words, int count);
    Model *(*hold_model)(Op *op, Bytes key, char **error);
    /* before it is released */
    void (*release_model)(Model *model, int64_t duration, int64_t samples, int failed, int is_direct);
} CallsElsewhere;
void calls_set_elsewhere(const CallsElsewhere *elsewhere);

/* What the main thread shall do for a script. Who posts it owns it and what it points to. */
typedef struct ScriptCall {
    Task task;
    const Op *op;
    const Bytes *words; /* redis.execute; NULL: redisAI.model_execute */
    int count;
    Bytes key;                             /* of the model */
    void (*done)(struct ScriptCall *call); /* main thread; the call is the owner's again */
    /* The outcome: one of them. */
    Reply *reply;
    Model *model;      /* a reference */
    const char *error; /* a constant: the call was not performed, or found no model */
} ScriptCall;

/* Any thread. */
void calls_post(ScriptCall *call);

/* Sets a reply to an error. Free it with bridge_free_reply. */
Reply *calls_error_reply(const char *text);
