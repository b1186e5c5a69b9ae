/* Events: where a stream has come to, for the host and for other streams. */
#include "standin.h"
#include <stdlib.h>

#define HANDLES 0x5200000000ULL
enum { DISABLE_TIMING = 2 };

static Event **events;
static size_t event_count, event_room;

Event *event_of(Context *context, void *handle) {
    uint64_t offset = (uint64_t)(uintptr_t)handle - HANDLES;
    if (offset % 64 || offset / 64 >= event_count) return NULL;
    Event *event = events[offset / 64];
    return event->live && event->context == context ? event : NULL;
}

void forget_events_of(Context *context) {
    for (size_t i = 0; i < event_count; i++)
        if (events[i]->live && events[i]->context == context) {
            events[i]->live = 0;
            counters.events--;
            counters.leaked_objects++;
        }
}

#define EVENT(handle) \
    LOCKED; \
    Context *context; \
    TRY(current(&context)); \
    Event *event = event_of(context, handle); \
    if (!event) return INVALID_HANDLE

API int cuEventCreate(void **handle, unsigned flags) {
    LOCKED;
    Context *context;
    TRY(current(&context));
    if (!handle || flags & ~7u) return INVALID_VALUE;
    if (event_count == event_room) events = realloc(events, (event_room = event_room ? 2 * event_room : 64) * sizeof *events);
    Event *event = calloc(1, sizeof *event);
    *event = (Event){.live = 1, .flags = flags, .context = context};
    *handle = (void *)(uintptr_t)(HANDLES + 64 * event_count);
    events[event_count++] = event;
    counters.events++;
    return SUCCESS;
}

API int cuEventDestroy_v2(void *handle) {
    EVENT(handle);
    event->live = 0; /* the record itself stays: work in a queue may still point to it */
    counters.events--;
    return SUCCESS;
}
API int cuEventDestroy(void *handle) { return cuEventDestroy_v2(handle); }

API int cuEventRecord(void *handle, void *stream_handle_) {
    EVENT(handle);
    Stream *stream = stream_of(context, stream_handle_);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) {
        if (stream->capture->invalid) return CAPTURE_INVALIDATED;
        event->capture = stream->capture;
        event->stream = stream;
        stream->joined = stream == stream->capture->origin ? 1 : 2; /* whoever waits for it has all of this stream */
        return SUCCESS;
    }
    event->capture = NULL;
    event->stream = stream;
    return enqueue(stream, (Op){.kind = RECORD, .event = event, .version = ++event->recorded});
}

API int cuStreamWaitEvent(void *stream_handle_, void *handle, unsigned flags) {
    EVENT(handle);
    Stream *stream = stream_of(context, stream_handle_);
    if (!stream) return INVALID_HANDLE;
    if (flags & ~1u) return INVALID_VALUE;
    if (event->capture && !event->capture->ended) {
        if (stream->capture && stream->capture != event->capture) {
            stream->capture->invalid = event->capture->invalid = 1;
            return CAPTURE_MERGE;
        }
        if (!stream->capture) { /* a fork: this stream is captured, too, and has to be joined */
            stream->capture = event->capture;
            stream->joined = 0;
        } else if (event->stream->joined == 2)
            event->stream->joined = 1;
        return SUCCESS;
    }
    if (stream->capture) {
        stream->capture->invalid = 1;
        return CAPTURE_ISOLATION;
    }
    if (event->recorded == event->done) return SUCCESS;
    return enqueue(stream, (Op){.kind = WAIT, .event = event, .version = event->recorded});
}

static int captured(Event *event) {
    if (!event->capture || event->capture->ended) return SUCCESS;
    event->capture->invalid = 1;
    return CAPTURED_EVENT;
}

API int cuEventSynchronize(void *handle) {
    EVENT(handle);
    TRY(captured(event));
    TRY(unsafe());
    uint64_t version = event->recorded;
    while (event->done < version && !context->sticky) {
        if (event->stream->busy || !event->stream->head) pthread_cond_wait(&idle, &mutex);
        else drain(event->stream, event->stream->head->sequence);
    }
    return context->sticky;
}

API int cuEventQuery(void *handle) {
    EVENT(handle);
    TRY(captured(event));
    TRY(unsafe());
    if (event->done == event->recorded) return context->sticky;
    if (!event->stream->busy && event->stream->head) drain(event->stream, event->stream->head->sequence);
    return context->sticky ? context->sticky : NOT_READY;
}

API int cuEventElapsedTime_v2(float *milliseconds, void *start_handle, void *end_handle) {
    EVENT(start_handle);
    Event *end = event_of(context, end_handle);
    if (!end || (event->flags | end->flags) & DISABLE_TIMING || !event->recorded || !end->recorded) return INVALID_HANDLE;
    if (event->done < event->recorded || end->done < end->recorded) return NOT_READY;
    *milliseconds = (float)((end->seconds - event->seconds) * 1e3);
    return SUCCESS;
}
API int cuEventElapsedTime(float *milliseconds, void *start, void *end) { return cuEventElapsedTime_v2(milliseconds, start, end); }
