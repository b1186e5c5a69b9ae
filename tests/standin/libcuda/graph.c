/* Capture and graphs: work that a capturing stream is given is recorded, not run; a launch queues the whole of it. A graph
   is the list in which it was recorded: one of the orders that its dependencies allow.

   STANDIN_NO_CAPTURE=1: no capture succeeds, as with a network that has loops. */
#include "standin.h"
#include <stdlib.h>
#include <string.h>

#define GRAPHS 0x5300000000ULL
#define EXECS 0x5400000000ULL
#define LIMIT 65536

static Graph *graphs[LIMIT];
static Exec *execs[LIMIT];
static size_t graph_count, exec_count;
static Capture *captures[LIMIT];
static size_t capture_count;

static void *at(void **all, size_t count, uint64_t base, void *handle) {
    uint64_t offset = (uint64_t)(uintptr_t)handle - base;
    return offset % 64 || offset / 64 >= count ? NULL : all[offset / 64];
}

/* Does an open capture forbid a call such as cuMemAlloc to this thread? So the rule of cuThreadExchangeStreamCaptureMode:
   a capture of its own that is not relaxed does, and a global one of any thread. */
int unsafe(void) {
    int code = SUCCESS;
    for (size_t i = 0; i < capture_count; i++) {
        Capture *capture = captures[i];
        int own = pthread_equal(capture->thread, pthread_self());
        if (capture->ended || capture->mode == CAPTURE_RELAXED || (capture->mode == CAPTURE_THREAD_LOCAL && !own)) continue;
        capture->invalid = 1;
        code = CAPTURE_UNSUPPORTED;
    }
    return code;
}

int capturing(Context *context) {
    int code = SUCCESS;
    for (size_t i = 0; i < capture_count; i++)
        if (!captures[i]->ended && captures[i]->origin->context == context) {
            captures[i]->invalid = 1;
            code = CAPTURE_UNSUPPORTED;
        }
    return code ? code : unsafe();
}

#define STREAM(handle) \
    LOCKED; \
    Context *context; \
    TRY(current(&context)); \
    Stream *stream = stream_of(context, handle); \
    if (!stream) return INVALID_HANDLE

API int cuStreamBeginCapture_v2(void *handle, int mode) {
    STREAM(handle);
    if (mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED) return INVALID_VALUE;
    if (stream->is_null) return CAPTURE_UNSUPPORTED;
    if (stream->capture) {
        stream->capture->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    if (capture_count == LIMIT) return OUT_OF_MEMORY;
    Capture *capture = calloc(1, sizeof *capture);
    *capture = (Capture){.mode = mode, .thread = pthread_self(), .origin = stream};
    captures[capture_count++] = stream->capture = capture;
    stream->joined = 1;
    return SUCCESS;
}
API int cuStreamBeginCapture(void *handle, int mode) { return cuStreamBeginCapture_v2(handle, mode); }

API int cuStreamEndCapture(void *handle, void **graph) {
    STREAM(handle);
    Capture *capture = stream->capture;
    if (!graph) return INVALID_VALUE;
    *graph = NULL;
    if (!capture || capture->origin != stream) {
        if (capture) capture->invalid = 1;
        return CAPTURE_UNMATCHED;
    }
    if (capture->mode != CAPTURE_RELAXED && !pthread_equal(capture->thread, pthread_self())) return CAPTURE_WRONG_THREAD;
    int unjoined = 0;
    Stream *each;
    for (size_t index = 0; (each = next_captured(capture, &index));) {
        unjoined |= each != stream && each->joined != 1;
        each->capture = NULL;
    }
    capture->ended = 1;
    const char *none = getenv("STANDIN_NO_CAPTURE");
    int refused = none && *none && strcmp(none, "0");
    if (capture->invalid || unjoined || refused || graph_count == LIMIT) {
        free_ops(capture->head);
        return capture->invalid ? CAPTURE_INVALIDATED : unjoined ? CAPTURE_UNJOINED : CAPTURE_UNSUPPORTED;
    }
    Graph *made = calloc(1, sizeof *made);
    *made = (Graph){1, capture->head};
    *graph = (void *)(uintptr_t)(GRAPHS + 64 * graph_count);
    graphs[graph_count++] = made;
    counters.graphs++;
    return SUCCESS;
}

API int cuStreamIsCapturing(void *handle, int *status) {
    STREAM(handle);
    *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    return SUCCESS;
}

static Graph *graph_of(void *handle) {
    Graph *graph = at((void **)graphs, graph_count, GRAPHS, handle);
    return graph && graph->live ? graph : NULL;
}

API int cuGraphInstantiateWithFlags(void **exec, void *graph_handle, unsigned long long flags) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    Graph *graph = graph_of(graph_handle);
    if (!graph || !exec || flags & ~15ULL || exec_count == LIMIT) return INVALID_VALUE;
    Exec *made = calloc(1, sizeof *made);
    *made = (Exec){.live = 1, .context = context};
    Op **tail = &made->ops;
    for (Op *op = graph->ops; op; op = op->next) {
        *tail = malloc(sizeof **tail);
        **tail = *op;
        (*tail)->next = NULL;
        tail = &(*tail)->next;
    }
    *exec = (void *)(uintptr_t)(EXECS + 64 * exec_count);
    execs[exec_count++] = made;
    counters.execs++;
    return SUCCESS;
}

API int cuGraphDestroy(void *handle) {
    LOCKED;
    Graph *graph = graph_of(handle);
    if (!graph) return INVALID_VALUE;
    free_ops(graph->ops);
    *graph = (Graph){0, NULL};
    counters.graphs--;
    return SUCCESS;
}

void release_exec(Exec *exec) {
    if (--exec->uses > 0 || exec->live) return;
    free_ops(exec->ops);
    exec->ops = NULL;
}

API int cuGraphExecDestroy(void *handle) {
    LOCKED;
    Exec *exec = at((void **)execs, exec_count, EXECS, handle);
    if (!exec || !exec->live) return INVALID_VALUE;
    exec->live = 0;
    exec->uses++; /* launches in a queue keep it */
    release_exec(exec);
    counters.execs--;
    return SUCCESS;
}

API int cuGraphLaunch(void *handle, void *stream_handle_) {
    STREAM(stream_handle_);
    Exec *exec = at((void **)execs, exec_count, EXECS, handle);
    if (!exec || !exec->live || exec->context != context) return INVALID_VALUE;
    if (stream->capture) return NOT_SUPPORTED; /* a graph within a graph */
    exec->uses++;
    return enqueue(stream, (Op){.kind = LAUNCH, .exec = exec});
}
API int cuGraphUpload(void *handle, void *stream_handle_) {
    STREAM(stream_handle_);
    Exec *exec = at((void **)execs, exec_count, EXECS, handle);
    return exec && exec->live ? SUCCESS : INVALID_VALUE;
}

void forget_execs_of(Context *context) {
    for (size_t i = 0; i < exec_count; i++)
        if (execs[i]->live && execs[i]->context == context) {
            execs[i]->live = 0;
            counters.execs--;
            counters.leaked_objects++;
        }
}
