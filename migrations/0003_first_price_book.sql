-- The vendor's published prices: the first book, effective from the beginning.
with book as (
    insert into price_book (name, effective_from) values ('vendor list', '2026-01-01T00:00:00Z') returning version
)
insert into price (version, task_type, unit, credits, credits_with_audio)
select book.version, p.task_type, p.unit, p.credits, p.credits_with_audio
from book, (values
    ('pro-text-to-video',         'second',  54,   80),
    ('pro-image-to-video',        'second',  54,   80),
    ('std-text-to-video',         'second',  40,   60),
    ('std-image-to-video',        'second',  40,   60),
    ('o3-pro-text-to-video',      'second',  48, null),
    ('o3-pro-image-to-video',     'second',  48, null),
    ('o3-pro-reference-to-video', 'second',  72, null),
    ('o3-pro-video-edit',         'fixed',  435, null),
    ('o3-std-text-to-video',      'second',  36, null),
    ('o3-std-image-to-video',     'second',  36, null),
    ('o3-std-reference-to-video', 'second',  20, null),
    ('o3-std-video-edit',         'fixed',  360, null)
) as p(task_type, unit, credits, credits_with_audio);
