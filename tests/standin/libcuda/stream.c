/* Streams. Work waits in its stream's queue and runs when somebody waits for it, so that a missing synchronization or a
   staging buffer that is reused too early gives wrong numbers, as it may on a GPU.

   STANDIN_ORDER: `lazy` (the default) runs nothing before it is waited for; `racing` runs, at every wait, first whatever
   other streams may run; `eager` runs all at once where no event holds it back. Correct code gives the same in all three. */
#include "standin.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static Stream **streams;
static size_t stream_count, stream_room;
static uint64_t last_sequence;

static int order_is(const char *name) {
    const char *order = getenv("STANDIN_ORDER");
    return order && !strcmp(order, name);
}

#define HANDLES 0x5100000000ULL /* no address: a handle that is read through crashes */

void *stream_handle(Stream *stream) {
    for (size_t i = 0; i < stream_count; i++)
        if (streams[i] == stream) return (void *)(uintptr_t)(HANDLES + 64 * i);
    return NULL;
}

Stream *stream_of(Context *context, void *handle) {
    if (!handle || handle == (void *)1) return context->null_stream;
    uint64_t offset = (uint64_t)(uintptr_t)handle - HANDLES;
    if (offset % 64 || offset / 64 >= stream_count) return NULL;
    Stream *stream = streams[offset / 64];
    return stream->live && stream->context == context ? stream : NULL;
}

Stream *new_stream(Context *context, unsigned flags, int is_null) {
    if (stream_count == stream_room) streams = realloc(streams, (stream_room = stream_room ? 2 * stream_room : 64) * sizeof *streams);
    Stream *stream = calloc(1, sizeof *stream);
    *stream = (Stream){.live = 1, .non_blocking = flags & 1, .is_null = is_null, .flags = flags, .context = context};
    streams[stream_count++] = stream;
    return stream;
}

void free_ops(Op *ops) {
    while (ops) {
        Op *next = ops->next;
        if (ops->owned) free(ops->host);
        if (ops->exec) release_exec(ops->exec);
        free(ops);
        ops = next;
    }
}

static int perform(Stream *stream, Op *op);

static int perform_all(Stream *stream, Op *ops) {
    for (; ops; ops = ops->next) TRY(perform(stream, ops));
    return SUCCESS;
}

/* What the device does with one piece of work; addresses are looked up now, since it may have been freed meanwhile. */
static int perform(Stream *stream, Op *op) {
    char *to = op->kind == TO_DEVICE || op->kind == ON_DEVICE || op->kind == FILL ? device_at(op->to, op->bytes) : NULL;
    char *from = op->kind == TO_HOST || op->kind == ON_DEVICE ? device_at(op->from, op->bytes) : NULL;
    switch (op->kind) {
    case TO_DEVICE:
        if (!to || (!op->owned && pinned_at(op->host, op->bytes) != 1)) return ILLEGAL_ADDRESS;
        memcpy(to, op->host, op->bytes);
        counters.copies++;
        return SUCCESS;
    case TO_HOST:
        if (!from) return ILLEGAL_ADDRESS;
        memcpy(op->host, from, op->bytes);
        counters.copies++;
        return SUCCESS;
    case ON_DEVICE:
        if (!to || !from) return ILLEGAL_ADDRESS;
        memmove(to, from, op->bytes);
        counters.copies++;
        return SUCCESS;
    case FILL:
        if (!to) return ILLEGAL_ADDRESS;
        for (size_t i = 0; i + (size_t)op->width <= op->bytes; i += (size_t)op->width) memcpy(to + i, &op->value, (size_t)op->width);
        return SUCCESS;
    case CALL: {
        const char *fault = getenv("STANDIN_FAULT"); /* which kernel of the process goes out of bounds, and all after it */
        counters.calls++;
        if (fault && *fault && counters.calls >= atol(fault)) return ILLEGAL_ADDRESS;
        stream->busy = 1;
        pthread_mutex_unlock(&mutex); /* it may be Python, which wants its own lock */
        int code = op->call(op->argument);
        pthread_mutex_lock(&mutex);
        stream->busy = 0;
        pthread_cond_broadcast(&idle);
        return code;
    }
    case RECORD: {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        op->event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
        op->event->done = op->version;
        return SUCCESS;
    }
    case LAUNCH:
        counters.launches++;
        return perform_all(stream, op->exec->ops);
    case WAIT:
        return SUCCESS;
    }
    return SUCCESS;
}

/* The legacy stream and the blocking ones wait for each other; whether what came before `sequence` there is done. */
static int implicit(Stream *stream, uint64_t sequence, int force) {
    if (stream->non_blocking) return 1;
    for (size_t i = 0; i < stream_count; i++) {
        Stream *other = streams[i];
        if (other == stream || other->context != stream->context || other->non_blocking || other->is_null == stream->is_null) continue;
        if (force) drain(other, sequence);
        if (other->head && other->head->sequence < sequence) return 0;
    }
    return 1;
}

/* Runs the next piece of work of `stream`; 0 where there is none, or it waits for others and `force` is not set. */
static int step(Stream *stream, int force) {
    Op *op = stream->head;
    if (!op || stream->busy || !implicit(stream, op->sequence, force)) return 0;
    if (op->kind == WAIT && op->event->done < op->version) {
        if (!force) return 0;
        while (op->event->done < op->version && step(op->event->stream, 1)) {}
        if (op->event->done < op->version) return 0;
    }
    stream->head = op->next;
    if (!stream->head) stream->tail = NULL;
    op->next = NULL;
    if (!stream->context->sticky) {
        int code = perform(stream, op);
        if (code) stream->context->sticky = code; /* as on a GPU: the context is done for */
        else if (op->kind == RECORD) pthread_cond_broadcast(&idle);
    } else if (op->kind == RECORD)
        op->event->done = op->version;
    free_ops(op);
    return 1;
}

static void let_others_race(Context *context, Stream *but) {
    for (int moved = 1; moved;) {
        moved = 0;
        for (size_t i = 0; i < stream_count; i++)
            if (streams[i] != but && streams[i]->context == context) moved |= step(streams[i], 0);
    }
}

/* Run what `stream` was given up to `until`. Another thread that is at it is waited for. */
int drain(Stream *stream, uint64_t until) {
    while (stream->busy || (stream->head && stream->head->sequence <= until)) {
        if (!step(stream, 1)) pthread_cond_wait(&idle, &mutex);
    }
    return stream->context->sticky;
}

void drain_context(Context *context, int wait) {
    for (size_t i = 0; i < stream_count; i++)
        if (streams[i]->context == context) {
            if (wait) drain(streams[i], UINT64_MAX);
            else while (step(streams[i], 1)) {}
        }
}

int enqueue(Stream *stream, Op op) {
    Op *own = malloc(sizeof *own);
    *own = op;
    own->sequence = ++last_sequence;
    own->next = NULL;
    Op **head = stream->capture ? &stream->capture->head : &stream->head, **tail = stream->capture ? &stream->capture->tail : &stream->tail;
    if (stream->capture) stream->joined = 0;
    if (*tail) (*tail)->next = own;
    else *head = own;
    *tail = own;
    if (!stream->capture && order_is("eager")) let_others_race(stream->context, NULL);
    return SUCCESS;
}

int legacy_barrier(Context *context) {
    TRY(unsafe());
    for (size_t i = 0; i < stream_count; i++)
        if (streams[i]->context == context && streams[i]->capture && !streams[i]->non_blocking) {
            streams[i]->capture->invalid = 1;
            return CAPTURE_IMPLICIT;
        }
    if (order_is("racing")) let_others_race(context, context->null_stream);
    for (size_t i = 0; i < stream_count; i++)
        if (streams[i]->context == context && !streams[i]->non_blocking) drain(streams[i], UINT64_MAX);
    return context->sticky;
}

Stream *next_captured(Capture *capture, size_t *index) {
    while (*index < stream_count)
        if (streams[(*index)++]->capture == capture) return streams[*index - 1];
    return NULL;
}

void forget_streams_of(Context *context) {
    for (size_t i = 0; i < stream_count; i++)
        if (streams[i]->context == context) {
            free_ops(streams[i]->head);
            streams[i]->head = streams[i]->tail = NULL;
            if (streams[i]->live && !streams[i]->is_null) {
                counters.streams--;
                counters.leaked_objects++;
            }
            streams[i]->live = 0;
        }
}

#define STREAM(handle) \
    LOCKED; \
    Context *context; \
    TRY(current(&context)); \
    Stream *stream = stream_of(context, handle); \
    if (!stream) return INVALID_HANDLE

API int cuStreamCreate(void **handle, unsigned flags) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    if (!handle || flags & ~1u) return INVALID_VALUE;
    *handle = stream_handle(new_stream(context, flags, 0));
    counters.streams++;
    return SUCCESS;
}
API int cuStreamCreateWithPriority(void **handle, unsigned flags, int priority) { return (void)priority, cuStreamCreate(handle, flags); }

API int cuStreamDestroy_v2(void *handle) {
    STREAM(handle);
    if (stream->is_null) return INVALID_VALUE;
    if (stream->capture) {
        stream->capture->invalid = 1;
        stream->capture = NULL;
    }
    while (step(stream, 1)) {} /* its work is still done, and then its resources are released */
    stream->live = 0;
    counters.streams--;
    return SUCCESS;
}
API int cuStreamDestroy(void *handle) { return cuStreamDestroy_v2(handle); }

API int cuStreamSynchronize(void *handle) {
    STREAM(handle);
    if (stream->capture) {
        stream->capture->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    TRY(unsafe());
    if (order_is("racing")) let_others_race(context, stream);
    return drain(stream, UINT64_MAX);
}

API int cuStreamQuery(void *handle) {
    STREAM(handle);
    if (stream->capture) {
        stream->capture->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    TRY(unsafe());
    if (!stream->head && !stream->busy) return context->sticky;
    step(stream, 1); /* so that who polls gets there */
    return context->sticky ? context->sticky : NOT_READY;
}

API int cuStreamGetFlags(void *handle, unsigned *flags) {
    STREAM(handle);
    *flags = stream->flags;
    return SUCCESS;
}

API int cuStreamGetCtx(void *handle, Context **out) {
    STREAM(handle);
    *out = stream->context;
    return SUCCESS;
}

/* Queue `call(argument)` on a stream: how the TensorRT stand-in runs a network. It gives 0 or an error code. */
API int standin_enqueue(void *handle, Callback call, void *argument) {
    STREAM(handle);
    if (stream->capture && stream->capture->invalid) return CAPTURE_INVALIDATED;
    return enqueue(stream, (Op){.kind = CALL, .call = call, .argument = argument});
}
