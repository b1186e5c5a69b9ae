/* The lock, the counters, and how errors are named. */
#include "standin.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
struct Counters counters;

int lock(void) { return pthread_mutex_lock(&mutex); }
void unlock(int *unused) { (void)unused; pthread_mutex_unlock(&mutex); }

#define COUNTER(name) {#name, &counters.name}
static const struct { const char *name; long *value; } names[] = {
    COUNTER(device_bytes), COUNTER(device_allocations), COUNTER(pinned_bytes), COUNTER(pinned_allocations), COUNTER(streams),
    COUNTER(events), COUNTER(graphs), COUNTER(execs), COUNTER(contexts), COUNTER(launches), COUNTER(calls), COUNTER(copies),
    COUNTER(leaked_bytes), COUNTER(leaked_objects),
};

/* One counter by its name, or -1. `leaked_*`: what was still there when its context ended. */
API long standin_count(const char *name) {
    LOCKED;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i].name)) return *names[i].value;
    return -1;
}

/* At exit, every counter as JSON into the file STANDIN_REPORT: how a server left the GPU behind. */
__attribute__((destructor)) static void report(void) {
    const char *path = getenv("STANDIN_REPORT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        fprintf(file, "%s\"%s\": %ld", i ? ", " : "{", names[i].name, *names[i].value);
    fprintf(file, "}\n");
    fclose(file);
}

static const struct { int code; const char *name, *text; } errors[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CONTEXT_IS_DESTROYED, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {CAPTURE_MERGE, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
};

static int error_text(int code, const char **out, int want_name) {
    for (size_t i = 0; out && i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *out = want_name ? errors[i].name : errors[i].text;
            return SUCCESS;
        }
    if (out) *out = NULL;
    return INVALID_VALUE;
}

API int cuGetErrorName(int code, const char **out) { return error_text(code, out, 1); }
API int cuGetErrorString(int code, const char **out) { return error_text(code, out, 0); }
