/* interpreter.c - starts the embedded Python interpreter (interpreter.h).
 *
 * Main thread: engine_start. The engine's thread starts Python, so Python takes it for its main thread, and then
 * becomes the loader (redisai/loader.py). Python is never finalised: a module with data types can never be unloaded.
 * Lock: start.mutex, a leaf, used during the start only. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "engine/interpreter.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bridge.h"
#include "engine/options.h"

PyMODINIT_FUNC PyInit__redisai_bridge(void); /* generated from bridge.h */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t settled;
    int is_settled;
    char *error;
    int is_running; /* main thread only */
} start = {.mutex = PTHREAD_MUTEX_INITIALIZER, .settled = PTHREAD_COND_INITIALIZER};

void bridge_engine_started(const char *error) {
    pthread_mutex_lock(&start.mutex);
    if (!start.is_settled) {
        start.is_settled = 1;
        start.error = error ? RedisModule_Strdup(error) : NULL;
        pthread_cond_signal(&start.settled);
    }
    pthread_mutex_unlock(&start.mutex);
}

const char *engine_wait_started(void) {
    pthread_mutex_lock(&start.mutex);
    while (!start.is_settled) pthread_cond_wait(&start.settled, &start.mutex);
    pthread_mutex_unlock(&start.mutex);
    return start.error;
}

void bridge_log(const char *level, const char *message) { RedisModule_Log(log_context, level, "%s", message); }

/* ---- the engine's thread ----------------------------------------------------------------------------------------- */

/* Wheels need libpython's symbols to be global. Servers load modules with RTLD_LOCAL (Valkey adds DEEPBIND). */
static const char *make_libpython_global(void) {
    Dl_info info;
    if (!dladdr((void *)Py_InitializeFromConfig, &info)) return "libpython cannot be found in this process";
    if (!dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL)) return dlerror();
    return NULL;
}

/* Python reads environ of the C library. A server's program may have a copy of its own, which DEEPBIND hides from
 * modules (Valkey 9.1 of PyPI): os.environ would be empty. */
void engine_take_environment(void) {
    char ***servers = dlsym(dlopen(NULL, RTLD_NOW), "environ");
    if (servers) environ = *servers;
}

/* The text of the pending Python exception, for the log. */
static void exception_text(char *text, size_t size) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyObject *described = value ? PyObject_Str(value) : NULL;
    const char *message = described ? PyUnicode_AsUTF8(described) : NULL;
    snprintf(text, size, "%s: %s", type ? ((PyTypeObject *)type)->tp_name : "error", message ? message : "?");
    Py_XDECREF(described);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    PyErr_Clear();
}

static PyStatus initialize(const char *python) {
    PyConfig config;
    /* Isolated: neither PYTHONPATH nor the user's site-packages can change what the server runs. */
    PyConfig_InitIsolatedConfig(&config);
    PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, python);
    if (!PyStatus_Exception(status)) status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

/* Runs redisai.engine.main() with the module's folder first on sys.path. Returns only if that fails. */
static void run_engine(char *error, size_t size) {
    PyObject *folder = PyUnicode_DecodeFSDefault(options_module_folder());
    PyObject *path = PySys_GetObject("path");
    PyObject *engine = NULL;
    if (folder && path && PyList_Insert(path, 0, folder) == 0) engine = PyImport_ImportModule("redisai.engine");
    PyObject *result = engine ? PyObject_CallMethod(engine, "main", NULL) : NULL;
    if (result) {
        snprintf(error, size, "redisai.engine.main() returned");
    } else {
        exception_text(error, size);
    }
    Py_XDECREF(result);
    Py_XDECREF(engine);
    Py_XDECREF(folder);
}

/* Writes into error why the engine cannot start, or why it has stopped. */
static void start_engine(const char *python, char *error, size_t size) {
    engine_take_environment();
    const char *reason = make_libpython_global();
    if (reason == NULL && PyImport_AppendInittab("_redisai_bridge", PyInit__redisai_bridge) == -1) reason = "no memory";
    PyStatus status = reason ? PyStatus_Error(reason) : initialize(python);
    if (PyStatus_Exception(status)) {
        snprintf(error, size, "%s (from %s; redisai.so was built for Python %d.%d)",
                 status.err_msg ? status.err_msg : "unknown", python, PY_MAJOR_VERSION, PY_MINOR_VERSION);
        return;
    }
    run_engine(error, size);
    PyEval_SaveThread();
    RedisModule_Log(log_context, "warning", "the engine has stopped: %s", error);
}

static void *engine_thread(void *python) {
    char error[1024];
    start_engine(python, error, sizeof(error));
    bridge_engine_started(error);
    return NULL;
}

/* ---- the main thread --------------------------------------------------------------------------------------------- */

/* bin/python of the venv that redisai.so is installed in: the nearest folder above it with a pyvenv.cfg. Nobody
 * executes it: Python finds its libraries from there. Debian's redis-server.service forbids to execute it. */
static int find_venv_python(char *python, size_t size) {
    char folder[PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", options_module_folder());
    for (char *slash; (slash = strrchr(folder, '/')); *slash = '\0') {
        char marker[PATH_MAX + 16];
        snprintf(marker, sizeof(marker), "%s/pyvenv.cfg", folder);
        if (access(marker, R_OK) == -1) continue;
        return (size_t)snprintf(python, size, "%s/bin/python", folder) < size && access(python, F_OK) == 0;
    }
    return 0;
}

int engine_find_python(RedisModuleCtx *ctx, char *python, size_t size) {
    if (options_python()) {
        snprintf(python, size, "%s", options_python());
    } else if (!find_venv_python(python, size)) {
        snprintf(python, size, "%s", REDISAI_BUILT_FOR_PYTHON);
    }
    if (access(python, F_OK) != -1) return REDISMODULE_OK;
    return log_refusal(ctx, "no Python interpreter at '%s': give one with the option PYTHON", python);
}

static int start_thread(const char *python) {
    /* Redis's main thread gets the signals. Those that a thread raises itself must still reach Redis's crash report. */
    sigset_t blocked, previous;
    sigfillset(&blocked);
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &previous);
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, engine_thread, (void *)python);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (!failed) pthread_detach(thread);
    return failed;
}

/* exit() would destroy the libraries' static objects while workers are still inside the libraries: one shutdown in four
 * crashed. Redis has saved and closed everything by then, so the process just ends. */
static void end_process(void *unused) { _exit(0); }

/* What C++ uses for thread_local objects (glibc). */
int __cxa_thread_atexit_impl(void (*destroy)(void *), void *object, void *library);
extern __attribute__((visibility("hidden"))) void *__dso_handle;

/* Redis calls exit(0) next. That destroys the thread's own objects before all else. An exit handler would be too late:
 * the newest runs first, and the loader may just be opening a library, which registers its own. */
static void shutting_down(RedisModuleCtx *ctx, RedisModuleEvent event, uint64_t subevent, void *data) {
    __cxa_thread_atexit_impl(end_process, NULL, &__dso_handle);
}

void engine_stay_mapped(void) {
    Dl_info info;
    if (dladdr((void *)engine_stay_mapped, &info)) dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

int engine_start(RedisModuleCtx *ctx) {
    static char python[PATH_MAX];
    if (start.is_running) return REDISMODULE_OK;

    if (Py_IsInitialized()) return log_refusal(ctx, "another module has started Python in this server already");
    engine_stay_mapped();
    if (engine_find_python(ctx, python, sizeof(python))) return REDISMODULE_ERR;
    if (start_thread(python)) return log_refusal(ctx, "cannot start a thread for the engine");
    const char *error = engine_wait_started();
    if (error) return log_refusal(ctx, "the engine cannot start in %s: %s", python, error);
    RedisModule_SubscribeToServerEvent(ctx, (RedisModuleEvent){REDISMODULE_EVENT_SHUTDOWN, 1}, shutting_down);
    start.is_running = 1;
    RedisModule_Log(ctx, "notice", "the engine runs in %s", python);
    return REDISMODULE_OK;
}
