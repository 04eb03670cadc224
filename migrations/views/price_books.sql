create or replace view reporting.price_books as
select activation.effective_from as at, book.version, book.name, activation.withdrawn_at is not null as withdrawn,
       (select count(*) from price where price.version = book.version) as prices
from price_activation activation
join price_book book using (version);
